"""Grades of a judge behind a real HTTP server: asked about once, kept, and never about what needs no judge."""

import json
from dataclasses import asdict

import pytest

from chat_server import fault, said, serving
from clray.data import records
from clray.data.questions import Question
from clray.errors import ModelError, SpecError
from clray.evaluation import grades as module
from clray.evaluation.generate import GenerateExample
from clray.evaluation.grades import Answer, check, grades, judged
from clray.evaluation.tasks import TaskSpec, graded
from clray.lineage.store import Store
from clray.spec.endpoint import Judge
from clray.spec.format import Format
from clray.spec.task import Task

KEY = "sk-secret-0123456789"
ANSWERS = [
    Answer("What is the capital of France?", ("Paris",), "It is Paris, on the Seine."),
    Answer("What is the capital of France?", ("Paris",), "paris."),
    Answer("What is the capital of France?", ("Paris",), "Not Paris."),
    Answer("What is the capital of France?", ("Paris",), "  "),
]


@pytest.fixture
def serve():
    with serving() as start:
        yield start


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def judge(url, **changes):
    return Judge(url=url, model="m", **changes).model_dump()


def strict(body):
    """The reply of a judge that takes no answer with a "not" in it."""
    return said({"correct": "Not" not in json.loads(body["messages"][0]["content"].splitlines()[-1])["answer"]})


def test_the_judge_decides_what_is_neither_empty_nor_a_reference_and_is_asked_once(serve, store):
    server = serve(strict)
    assert grades([*ANSWERS, ANSWERS[0]], judge(server.url), store) == [True, True, False, False, True]
    assert len(server.asked) == 2
    moved = judge("http://127.0.0.1:9/v1", retries=0, key_env="NOT_SET")
    assert grades(ANSWERS[1::2], moved, store) == [True, False]
    assert len(server.asked) == 2


def test_grades_are_kept_by_model_and_rubric_wherever_the_server_is(serve, store):
    server = serve(strict)
    grades(ANSWERS, judge(server.url), store)
    assert grades(ANSWERS, judge(server.url + "/", timeout_seconds=1.0), store) == [True, True, False, False]
    assert len(server.asked) == 2
    grades(ANSWERS, judge(server.url, rubric="Units must be {right}."), store)
    assert len(server.asked) == 4 and "Units must be {right}. Answer with" in server.asked[-1]


def test_what_was_judged_before_a_failure_is_kept(serve, store, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 1)
    many = [Answer(f"{n}?", ("x",), f"y {n}") for n in range(4)]
    server = serve(said({"correct": True}), said({"correct": False}), fault(404, "gone"))
    with pytest.raises(ModelError, match=r"judge endpoint .* HTTP 404"):
        grades(many, judge(server.url, retries=0), store)
    again = serve(said({"correct": False}))
    assert grades(many, judge(again.url), store) == [True, False, False, False] and len(again.asked) == 2


@pytest.mark.parametrize("reply", ["Sure, it is right.", {"correct": "yes"}, {"right": True}, None])
def test_an_answer_that_is_no_grade_is_asked_for_again_and_then_named(serve, store, reply):
    server = serve(said(reply), said({"correct": True}))
    assert grades(ANSWERS[:1], judge(server.url), store) == [True] and len(server.asked) == 2
    with pytest.raises(ModelError, match=r"answer \{.question.: .What is the capital.*: the answer is not"):
        grades(ANSWERS[2:3], judge(serve(said(reply)).url, retries=1), store)


def test_what_is_missing_is_said_while_planning(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ModelError, match=r"judge endpoint .* environment variable 'JUDGE_KEY'"):
        check(judge("http://127.0.0.1:9/v1", key_env="JUDGE_KEY"), 1, "task 'a'")
    with pytest.raises(SpecError, match=r"task 'a': 11 answers are to be judged, above judge.limit \(10\)"):
        check(judge("http://127.0.0.1:9/v1", limit=10), 11, "task 'a'")
    monkeypatch.setattr("clray.endpoint.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package openai"):
        check(judge("http://127.0.0.1:9/v1"), 1, "task 'a'")


def test_the_key_goes_to_the_server_and_into_nothing_that_is_kept(serve, store, monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = serve(said({"correct": True}))
    grades(ANSWERS, judge(server.url, key_env="JUDGE_KEY"), store)
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(KEY.encode() in content for content in kept)


def test_only_free_answers_of_an_exam_are_judged(serve, store):
    free = Question(text="What is the capital of France?", answers=("Paris",))
    closed = Question(text="Which one?", answers=("red",), options=("red", "blue"))
    results = [{"name": one.name, "written": "Not Paris.", "written_right": True} for one in (free, closed)]
    server = serve(strict)
    found = judged(results, [free, closed], judge(server.url), store)
    assert [result["written_right"] for result in found] == [False, True] and len(server.asked) == 1
    assert results[0]["written_right"] is True


def test_a_task_of_written_answers_is_judged_on_what_the_model_read(serve, store, tiny_model):
    server = serve(strict)
    task = Task(name="t", scorer="generate", data="x.jsonl", metric="judge", judge=Judge(url=server.url, model="m"))
    names = {"tokenizer": str(tiny_model), "tokenizer_digest": "t", "form": Format(), "context": 64}
    spec = TaskSpec(task=task, sources=(), precision="fp32", **names)
    ids = records.tokenizer(str(tiny_model))("Name the capital of France.")["input_ids"]
    examples = [GenerateExample(tuple(ids), ("Paris",)) for _ in range(2)]
    store.write_json(f"tasks/{spec.digest}/examples.json", [asdict(example) for example in examples])
    results = [{"prediction": text, "exact_match": 0.0} for text in ("Not Paris.", "Paris it is.")]
    assert [one["judge"] for one in graded(spec, results, store)] == [0.0, 1.0]
    assert "Name the capital of France." in server.asked[0]
    plain = TaskSpec(task=task.model_copy(update={"judge": None}), sources=(), precision="fp32", **names)
    moved = task.model_copy(update={"judge": Judge(url="http://127.0.0.1:9/v1", model="m")})
    assert plain.digest != spec.digest == TaskSpec(task=moved, sources=(), precision="fp32", **names).digest
