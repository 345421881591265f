"""Suites of lm-evaluation-harness as tasks: the same numbers as lm-eval's own model, and what is refused."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clray.errors import DataError
from clray.evaluation import suites
from clray.evaluation.outcomes import aggregate
from clray.evaluation.suite_scoring import respond
from clray.spec.task import Task
from suite_folder import write_folder

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is absent: pip install 'clray[suites]'")


OPENSTAX = """
task: openstax
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer_index
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("suites"))


@pytest.fixture(scope="module")
def pair(tiny_model):
    """A model of large random weights, so that prompts decide what it writes, and its tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.3)
    return model, AutoTokenizer.from_pretrained(tiny_model)


def task(folder, suite="quiz", **fields):
    return Task(name="probe", scorer="suite", suite=suite, include=str(folder), **fields)


def through_clray(of, pair, context=128):
    model, tokenizer = pair
    examples = suites.examples(of, tokenizer, context)
    results = respond(model, tokenizer, examples, context, batch_tokens=512, pad_id=0)
    return suites.graded(of, results)


def through_lm_eval(folder, suite, pair, monkeypatch, shots=0, limit=None):
    """Scores and samples as `simple_evaluate` finds them, which also looks for 10 s at what is installed."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(folder)  # lm-eval reads data files relative to the working directory
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([suite])
    loaded["tasks"][suite].set_config(key="num_fewshot", value=shots)
    loaded["tasks"][suite].set_fewshot_seed(seed=1234)
    model, tokenizer = pair
    model_of_lm_eval = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    found = evaluate(model_of_lm_eval, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    return found["results"][suite], found["samples"][suite]


@pytest.mark.parametrize(("suite", "shots"), [("quiz", 0), ("quiz", 2), ("inputs", 0), ("last", 0)])
def test_log_probabilities_are_those_of_lm_evals_own_model(folder, pair, monkeypatch, suite, shots):
    """Document 3 is longer than the model's 128 positions: its prompt loses its beginning in both."""
    rows = through_clray(task(folder, suite, num_fewshot=shots), pair)
    scores, samples = through_lm_eval(folder, suite, pair, monkeypatch, shots)
    for row, sample in zip(rows, samples, strict=True):
        theirs = [(float(log_p), bool(greedy)) for [(log_p, greedy)] in sample["resps"]]
        assert [log_p for log_p, _ in row["responses"]] == pytest.approx([log_p for log_p, _ in theirs], abs=1e-4)
        assert [greedy for _, greedy in row["responses"]] == [greedy for _, greedy in theirs]
    ours = aggregate("suite", rows)
    named = {name.removesuffix(",none") for name in scores if name.endswith(",none") and "stderr" not in name}
    assert set(ours) - {"n"} == named
    for name in named:
        assert ours[name] == pytest.approx(scores[f"{name},none"], rel=1e-4)


def test_rolling_log_probabilities_are_those_of_lm_evals_own_model(folder, pair, monkeypatch):
    rows = through_clray(task(folder, "reading", metric="bits_per_byte"), pair)
    scores, samples = through_lm_eval(folder, "reading", pair, monkeypatch)
    assert [row["responses"][0] for row in rows] == pytest.approx([s["resps"][0][0] for s in samples], rel=1e-5)
    ours = aggregate("suite", rows)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert ours[name] == pytest.approx(scores[f"{name},none"], rel=1e-5)


def test_answers_are_those_of_lm_evals_own_model(folder, pair, monkeypatch):
    rows = through_clray(task(folder, "writing", metric="exact_match:word"), pair)
    scores, samples = through_lm_eval(folder, "writing", pair, monkeypatch)
    whole = [sample["resps"][0][0] for sample in samples if sample["filter"] == "whole"]
    assert [row["responses"][0] for row in rows] == whole
    assert all("\n" not in text and "e " not in text for text in whole) and len(set(whole)) > 1
    ours = aggregate("suite", rows)
    assert ours["exact_match"] == scores["exact_match,whole"]
    assert ours["exact_match:word"] == scores["exact_match,word"]


def test_real_questions_are_scored_as_by_lm_evals_own_model(data_dir, tmp_path, monkeypatch):
    rows = data_dir / "qa" / "mmlu_openstax" / "test.jsonl"
    (tmp_path / "own.yaml").write_text(OPENSTAX.replace("ROWS", str(rows)))
    folder = data_dir / "models" / "TinyStories-656K"
    pair = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    context = pair[0].config.max_position_embeddings
    found = through_clray(task(tmp_path, "openstax", limit=25), pair, context)
    scores, samples = through_lm_eval(tmp_path, "openstax", pair, monkeypatch, limit=25)
    theirs = [log_p for sample in samples for [(log_p, _)] in sample["resps"]]
    assert [log_p for row in found for log_p, _ in row["responses"]] == pytest.approx(theirs, abs=1e-4)
    assert aggregate("suite", found)["acc"] == scores["acc,none"]


def test_ratios_of_sums_are_worked_by_hand():
    """exp((2 + 4) / (3 + 1)) = e^1.5 a word; (1 + 0) / 2 right."""
    rows = [
        {"values": {"word_perplexity": [2.0, 3], "acc": [1, 1]}},
        {"values": {"word_perplexity": [4.0, 1], "acc": [0, 1]}},
    ]
    assert aggregate("suite", rows) == {"word_perplexity": pytest.approx(math.exp(1.5)), "acc": 0.5, "n": 2}


def test_the_mark_follows_what_is_asked_and_not_where_it_lies(folder, tmp_path):
    one = suites.mark(task(folder))
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert suites.mark(task(moved)) == one
    assert suites.mark(task(folder, metric="acc_norm")) == one
    others = [suites.mark(task(folder, limit=5)), suites.mark(task(folder, num_fewshot=1))]
    (moved / "quiz.yaml").write_text((moved / "quiz.yaml").read_text().replace("Answer:", "Reply:"))
    others.append(suites.mark(task(moved)))
    (moved / "test.jsonl").write_text((moved / "test.jsonl").read_text().replace("bird", "fish"))
    others.append(suites.mark(task(moved)))
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("doc_to_target: !function utils.gold", "'!function utils.gold' is Python of its folder"),
        ("doc_to_text: !!python/name:os.system", "not a task file: could not determine a constructor"),
        ("doc_to_text: \"{{ question.__class__.__mro__ }}\"", "access to attribute '__class__'"),
        ("include: /etc/hosts", "includes /etc/hosts, which is outside of"),
        ("class: tasks.Quiz", "is a Python class of its own"),
        ("unsafe_code: true", "runs the code that the model writes"),
        ("metric_list: [{metric: rouge}]", "takes metric 'rouge' from the Hugging Face hub, as code"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "takes metric 'acc' from the Hugging Face hub, as code"),
        ("metric_list: [{metric: f1}]", "no metric 'acc' that clray can compare; it has none (f1 are no means"),
        ("metric_list: [{metric: acc_norm}]", "it has acc_norm; give metric: acc_norm"),
        ("metric_list: [{metric: acc, aggregation: mean, higher_is_better: false}]", "that less is better"),
        ("repeats: 4", "samples its answers"),
        ("generation_kwargs: {do_sample: true}", "samples its answers"),
        ("generation_kwargs: {num_beams: 4}", "writes with generation_kwargs 'num_beams'"),
        ("doc_to_image: picture", "asks about pictures or sound"),
        ("use_prompt: 'promptsource:x'", "takes its prompt from elsewhere"),
        ("test_split: none_such", "cannot be read"),
        ("dataset_kwargs: {data_files: {test: absent.jsonl}}", "cannot be read"),
    ],
)  # fmt: skip
def test_what_does_not_run_is_refused_while_planning(folder, tmp_path, change, message):
    here = shutil.copytree(folder, tmp_path / "here")
    (here / "own.yaml").write_text(
        f"include: quiz.yaml\ntask: own\n{change}\n" if "include:" not in change else f"task: own\n{change}\n"
    )
    with pytest.raises(DataError, match=r"^task 'probe': ") as caught:
        suites.mark(task(here, "own"))
    assert message in str(caught.value)


def test_names_that_are_not_there_get_near_ones(folder):
    with pytest.raises(DataError, match=r"suite 'quizz' is not in include .* did you mean quiz"):
        suites.mark(task(folder, "quizz"))
    of_lm_eval = Task(name="probe", scorer="suite", suite="arc_eazy")
    with pytest.raises(DataError, match="suite 'arc_eazy' is not one of lm-eval's; did you mean arc_easy"):
        suites.mark(of_lm_eval)
    with pytest.raises(DataError, match=r"suite 'mmlu' is a group .* give a task to each of them"):
        suites.mark(of_lm_eval.model_copy(update={"suite": "mmlu"}))
    with pytest.raises(DataError, match="is no folder"):
        suites.mark(task(folder / "absent"))


def test_solved_examples_that_a_suite_forbids_are_refused(folder, tmp_path):
    here = shutil.copytree(folder, tmp_path / "here")
    (here / "own.yaml").write_text("include: quiz.yaml\ntask: own\nnum_fewshot: 0\n")
    with pytest.raises(DataError, match="asked without solved examples; leave num_fewshot 3 out"):
        suites.mark(task(here, "own", num_fewshot=3))


def test_a_filter_must_be_one_of_the_suites(folder):
    with pytest.raises(DataError, match=r"no filter 'letter' beside its first \(whole\); it has word"):
        suites.mark(task(folder, "writing", metric="exact_match:letter"))


def test_an_answer_longer_than_the_model_is_refused(folder, pair):
    with pytest.raises(DataError, match=r"takes .* tokens; it needs 1 to 2"):
        suites.examples(task(folder), pair[1], 2)
    with pytest.raises(DataError, match="writes up to 24 tokens, and the model takes 24 with the prompt"):
        suites.examples(task(folder, "writing", metric="exact_match"), pair[1], 24)


def test_without_the_package_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    suites._opened.cache_clear()
    with pytest.raises(DataError, match=r"needs lm-evaluation-harness: pip install 'clray\[suites\]'"):
        suites.mark(task(folder))
