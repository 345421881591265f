"""The exam against a slow reference written out here; alike in any batch or shard; judged by rules worked by hand."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chat_server import said, serving
from clray.data import formatting, questions
from clray.data.questions import Question
from clray.errors import DataError
from clray.evaluation.actors import ScoringPool
from clray.evaluation.evolution import compare, kind_of
from clray.evaluation.exam import ExamSpec, examine, sheets
from clray.evaluation.generate import Written, write_all
from clray.evaluation.judging import judge, recovered, spread
from clray.evaluation.sampling import Sampling
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.spec import loading
from clray.spec.endpoint import Judge
from clray.spec.format import Format

FORM = Format(prompt="{instruction} w9 {input} w8", answer="{output}")


def spec(**changes):
    names = {"questions": "q", "tokenizer": "", "tokenizer_digest": "t", "form": FORM, "instruction": "w50 w51"}
    values = {"samples": 3, "temperature": 0.7, "max_new_tokens": 4, "distractors": 2, "rouge": None}
    return ExamSpec(**{**names, **values, "limit": 60, "precision": "fp32", "seed": 3, **changes})


def some(count=6):
    """Questions of unlike lengths, every other one with options, of four subjects, every third held out.

    All words are above w40: in others the tokenizer sees its special tokens w1, w2, w3.
    """
    draw = np.random.default_rng(0)

    def text(most):
        return " ".join(f"w{n}" for n in draw.integers(50, 90, draw.integers(1, most + 1)))

    found = []
    for number in range(count):
        answer, wrong = f"w{number + 40} {text(2)}", [text(3) for _ in range(3)]
        options = (*wrong[:2], answer, wrong[2]) if number % 2 else ()
        subject, heldout = f"s{number % 4}", number % 3 == 0
        found.append(Question(text=text(9), answers=(answer,), options=options, subject=subject, heldout=heldout))
    return found


ASKED = some()


def log_p(model, prompt, answer):
    """Mean log p of the answer's tokens, from one plain forward pass over prompt + answer."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)) / len(answer)


def prompt_of(words, question, options):
    lines = [question.text, *(f"- {option}" for option in options)]
    return formatting.encode_prompt(words, {"instruction": "w50 w51", "input": "\n".join(lines)}, FORM)


def test_shares_of_the_options_are_those_of_the_slow_reference(any_model, words):
    results = examine(any_model, words, ASKED, spec(), batch_tokens=200)
    for question, result in zip(ASKED, results, strict=True):
        prompt = prompt_of(words, question, question.options)
        scores = [log_p(any_model, prompt, [*words.encode(o, add_special_tokens=False), 2]) for o in result["options"]]
        total = sum(map(math.exp, scores))
        assert result["p"] == pytest.approx([math.exp(score) / total for score in scores], abs=1e-4)
        assert result["options"][result["gold"]] == question.gold
        assert result["likeliest_right"] == (result["p"].index(max(result["p"])) == result["gold"])
        first, second = sorted(result["p"])[-2:][::-1]
        assert result["margin"] == first - second
        assert (result["name"], result["subject"]) == (question.name, question.subject)
        assert result["heldout"] is question.heldout


def teach(model, words, asked, steps):
    """Trains the model on the questions with their gold answers, one at a time as they differ in length."""
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        for q in asked:
            ids = [*prompt_of(words, q, q.options), *words.encode(q.gold, add_special_tokens=False), 2]
            model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.fixture(scope="module")
def pupil(words, build):
    """A tiny Llama that knows some of the answers, so that its samples differ."""
    model = build("llama")
    teach(model, words, ASKED, 14)
    return model


def test_votes_are_those_of_the_drawn_answers(pupil, words):
    asked = sheets(words, ASKED, spec())
    results = examine(pupil, words, ASKED, spec(), batch_tokens=200)
    assert len({answer for result in results for answer in result["votes"]}) > 3
    for sheet, result in zip(asked, results, strict=True):
        prompts, draws = list(sheet.samples), list(sheet.draws)
        written = write_all(pupil, words, prompts, 4, 100, Sampling(0.7, draws))
        same = judge(sheet.question, sheet.options, [0.0] * len(sheet.options), written[0], written, None)
        assert (result["votes"], result["entropy"]) == (same["votes"], same["entropy"])


def close(results, others):
    for result, other in zip(results, others, strict=True):
        for field in ("p", "margin"):
            assert result[field] == pytest.approx(other[field], abs=1e-5)
        assert {**result, "p": 0, "margin": 0} == {**other, "p": 0, "margin": 0}
    return True


def test_neither_batches_nor_shards_nor_what_was_drawn_before_change_a_result(pupil, words):
    whole = examine(pupil, words, ASKED, spec(), batch_tokens=10_000)
    for budget in (1, 64, 300):
        torch.rand(3)
        assert close(examine(pupil, words, ASKED, spec(), budget), whole)
    for size in (1, 4):
        parts = [examine(pupil, words, ASKED, spec(), 100, at, at + size) for at in range(0, len(ASKED), size)]
        assert close([result for part in parts for result in part], whole)


def test_seed_question_and_number_decide_the_draws(llama, words):
    def drawn(**changes):
        return [(s.options, s.samples, s.draws) for s in sheets(words, ASKED, spec(**changes))]

    assert drawn() == drawn() != drawn(seed=4)
    assert all(len(set(draws)) == 3 for _, _, draws in drawn())
    assert [draws[:2] for *_, draws in drawn()] == [draws for *_, draws in drawn(samples=2)]
    other = sheets(words, ASKED[::-1], spec())[::-1]
    assert [s.draws for s in other] == [draws for *_, draws in drawn()]


def test_options_stand_in_the_prompt_in_another_order_each_time(words):
    [sheet] = sheets(words, ASKED[1:2], spec(samples=30))
    question = sheet.question
    assert list(sheet.scored.prompt_ids) == prompt_of(words, question, question.options)
    assert len(set(sheet.samples)) > 8
    assert all(sorted(prompt) == sorted(sheet.scored.prompt_ids) for prompt in sheet.samples)
    [free, *_] = sheets(words, ASKED, spec())
    assert set(free.samples) == {free.scored.prompt_ids} == {tuple(prompt_of(words, free.question, ()))}


def test_distractors_are_of_the_same_side_and_first_of_the_same_subject(words):
    def ask(number, answer, subject, heldout=False):
        return Question(text=f"w{number}", answers=(answer, "w70"), subject=subject, heldout=heldout)

    own = [ask(40, "w50", "a"), ask(41, "w51", "a"), ask(42, "W50.", "a"), ask(43, "w53", "b"), ask(44, "w70", "a")]
    apart = [ask(45, "w55", "a", True), ask(46, "w56", "a", True)]
    gold, more = (sheets(words, [*own, *apart], spec(distractors=n)) for n in (1, 9))
    assert set(gold[0].options) == {"w50", "w51"}
    assert [set(s.options) for s in more[:2]] == [{"w50", "w51", "w53"}, {"w51", "w50", "w53"}]
    assert set(more[3].options) == {"w53", "w50", "w51"}  # its subject has no other answer
    assert set(more[5].options) == {"w55", "w56"}
    assert all(s.options[s.scored.gold] == s.question.gold for s in (*gold, *more))


def test_gold_is_not_always_first(words):
    many = [Question(text=f"w{n}", answers=(f"w{n}",)) for n in range(40, 90)]
    places = [s.scored.gold for s in sheets(words, many, spec(distractors=3))]
    assert set(places) == {0, 1, 2, 3}


def test_a_question_without_any_other_answer_is_refused(words):
    with pytest.raises(DataError, match="no other question to learn from has another answer to choose from"):
        sheets(words, [Question(text="w40", answers=("w50",))], spec())


def test_what_does_not_fit_follows_the_format(words):
    long = Question(text="w40 " * 80, answers=("w60",), options=("w60", "w61"))
    with pytest.raises(DataError, match=r"question 'w40 .* leaves no room for its answer"):
        sheets(words, [*ASKED, long], spec())
    skip = FORM.model_copy(update={"overlong": "skip"})
    assert len(sheets(words, [*ASKED, long], spec(form=skip))) == len(ASKED)
    with pytest.raises(DataError, match="none of the 1 questions fits into 60 tokens"):
        sheets(words, [long], spec(form=skip))
    [cut] = sheets(words, [long], spec(form=FORM.model_copy(update={"overlong": "truncate"})))
    assert len(cut.scored.prompt_ids) == 56 and all(len(prompt) == 56 for prompt in cut.samples)


def test_the_address_holds_all_that_decides_a_result():
    same = spec(tokenizer="/elsewhere")
    assert same.digest == spec().digest
    changes = [{"seed": 4}, {"samples": 2}, {"temperature": 1.0}, {"max_new_tokens": 5}, {"distractors": 3}]
    changes += [{"rouge": 0.5}, {"limit": 61}, {"precision": "bf16"}, {"questions": "r"}, {"instruction": "w5"}]
    changes += [{"tokenizer_digest": "u"}, {"form": Format()}]
    assert len({spec(**change).digest for change in changes} | {spec().digest}) == len(changes) + 1


CHOICE = Question(text="which?", answers=("Aa",), options=("AA", "Aa", "binary fission", "fission", "北京", "-3", "3"))


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("Aa", "Aa"),
        ("aa", None),
        ("- fission.", "fission"),
        ("It is binary fission", "binary fission"),
        ("fission, or else 北京", None),
        ("答案是北京。", "北京"),
        ("-3", "-3"),
        ("it is -3", "-3"),
        ("the answer is 3.", "3"),
        ("3.5", None),
        ("mitosis", None),
        ("", None),
    ],
)
def test_the_option_that_is_meant(text, option):
    assert recovered(text, CHOICE.options) == option


def judged(question, text, *others, ended=True, rouge=None):
    texts = [Written(other, True) for other in others or (text,)]
    options = question.options or (question.gold, "w1")
    return judge(question, options, [0.0] * len(options), Written(text, ended), texts, rouge)


def test_choices_are_judged_by_the_option_that_is_meant():
    right = judged(CHOICE, "Aa", "Aa", "Aa", "AA", "what")
    assert right["written_right"] and not right["parse_fail"]
    assert right["votes"] == {"": 0.25, "AA": 0.25, "Aa": 0.5}
    thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert right["entropy"] == pytest.approx(thirds / math.log(7))
    wrong, none = judged(CHOICE, "AA"), judged(CHOICE, "who knows", ended=False)
    assert (wrong["written_right"], wrong["parse_fail"]) == (False, False)
    assert (none["written_right"], none["parse_fail"], none["entropy"]) == (False, True, 1.0)


def test_free_answers_are_judged_by_their_text():
    who = Question(text="who?", answers=("Ada Lovelace", "the countess"))
    assert judged(who, "It was Ada Lovelace.")["written_right"] and judged(who, "THE COUNTESS")["written_right"]
    assert not judged(who, "Lovelace")["written_right"]
    assert judged(who, "Lovelace", rouge=0.6)["written_right"]  # ROUGE-L F1 of 2/3
    assert not judged(who, "Lovelace", rouge=0.7)["written_right"]
    assert judged(who, "x", ended=False)["parse_fail"] and judged(who, "")["parse_fail"]
    assert not judged(who, "x")["parse_fail"]
    several = judged(who, "x", "Ada", "ada.", "Byron", "Byron")
    assert several["votes"] == {"ada": 0.5, "byron": 0.5} and several["entropy"] == pytest.approx(0.5)
    assert judged(who, "x", "a", "b", "c", "d")["entropy"] == 1.0
    assert judged(who, "x", "a")["entropy"] == 0.0


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=9))
def test_spread_lies_between_0_and_1(answers):
    shares = {a: answers.count(a) / len(answers) for a in answers}
    found = spread(shares, 3)
    read = {a for a in answers if a}
    assert 0 <= found <= 1 and (found == 0) == (len(read) == 1)
    assert found == pytest.approx(spread({a: s for a, s in shares.items() if a}, 3)) and (
        found == 1 if not read else True
    )


def test_a_model_that_was_taught_the_answers_knows_them(words, build):
    asked = [Question(text=f"w{n}", answers=(f"w{n + 20}",), heldout=n % 2 == 0) for n in range(50, 58)]
    model = build("llama")
    before = examine(model, words, asked, spec(), batch_tokens=500)
    teach(model, words, asked, 60)
    results = examine(model, words, asked, spec(temperature=0.3), batch_tokens=500)
    assert all(r["likeliest_right"] and r["written_right"] and not r["parse_fail"] for r in results)
    assert {kind_of(r, 0.5, 0.1) for r in results} == {"known"}
    assert all(r["votes"].get(q.gold, 0) > 0.5 for r, q in zip(results, asked, strict=True))
    for side in compare(before, results).values():
        assert side["written"]["gain"] == side["written"]["repaired"] == 1


@pytest.fixture
def pool(tiny_model, tmp_path, ray_cluster):
    """A store with generation g (the tiny model) and 10 questions, two scoring actors, shards of 4, and the exam."""
    store = Store(str(tmp_path / "store"))
    files = store.upload(tiny_model, "generations/g/weights")
    files = {f"weights/{name}": mark for name, mark in files.items()}
    store.commit(Generation(key="g", parent=None, index=0, stage_name="base", base="g", files=files))
    asked = [
        Question(text=f"{w} {n}?", answers=(w,))
        for n, w in enumerate("red blue one two sun moon cat dog bird star".split())
    ]
    store.write_json("questions/q.json", [asdict(question) for question in asked])
    stream = loading.loads(f"""
name: a
storage: {store.root}
evaluation: {{workers: 2, shard_rows: 4}}
stages: [{{name: x, kind: pretrain, data: builtin:docs}}]
""")
    started = ScoringPool(stream)
    yield store, started, spec(tokenizer=str(tiny_model), form=Format(), instruction="Answer.", limit=128)
    started.release()


@pytest.mark.ray
def test_an_exam_on_actors_goes_on_from_the_shards_that_are_there(pool, tiny_model):
    store, actors, asked = pool
    seen = []
    found = actors.examine("g", asked, store, lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)] and len(found) == 10
    assert store.read_json(asked.path("g")) == found and not store.list(asked.parts("g"))
    tokenizer, model = questions.records.tokenizer(str(tiny_model)), _model(tiny_model)
    assert close(found, examine(model, tokenizer, questions.load(store, "q"), asked, 64))

    assert actors.examine("g", asked, store, lambda *done: seen.append(done)) == found and len(seen) == 3
    store.delete(asked.path("g"))
    marked = [{**result, "written": "not asked again"} for result in found[4:8]]
    store.write_json(asked.part("g", 4, 8), marked)
    again = actors.examine("g", asked, store, lambda *done: seen.append(done))
    assert again == [*found[:4], *marked, *found[8:]] and seen[3:] == [(2, 3), (3, 3)]


@pytest.mark.ray
def test_an_exam_that_was_killed_in_the_middle_asks_the_rest_alone(pool):
    store, actors, asked = pool

    def kill(done, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actors.examine("g", asked, store, kill)
    kept = {name: store.read_json(f"{asked.parts('g')}/{name}") for name in store.list(asked.parts("g"))}
    assert kept and not store.exists(asked.path("g"))
    seen = []
    found = actors.examine("g", asked, store, lambda *done: seen.append(done))
    assert len(found) == 10 and len(seen) <= 3 - len(kept)
    assert all(part == found[int(name.split("-")[0]) :][: len(part)] for name, part in kept.items())


@pytest.mark.ray
def test_the_word_of_a_judge_comes_on_top_of_the_same_results(pool):
    store, actors, asked = pool
    found = actors.examine("g", asked, store, print)
    with serving() as start:
        server = start(said({"correct": True}))
        strict = replace(asked, judge=Judge(url=server.url, model="m").model_dump())
        seen = []
        again = actors.examine("g", strict, store, lambda *done: seen.append(done))
        assert not seen and 0 < len(server.asked) <= len(found)
        assert all(
            after == {**before, "written_right": bool(before["written"].strip())}
            for before, after in zip(found, again, strict=True)
        )
        count = len(server.asked)
        assert actors.examine("g", strict, store, print) == again
        store.delete(strict.path("g"))
        assert actors.examine("g", strict, store, print) == again and len(server.asked) == count


@pytest.mark.ray
def test_what_does_not_fit_is_refused_before_an_actor_is_asked(pool):
    store, actors, asked = pool
    tight = spec(tokenizer=asked.tokenizer, form=Format(), limit=12)
    with pytest.raises(DataError, match="leaves no room for its answer"):
        actors.examine("absent", tight, store, print)


def _model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()
