"""Questions: read and checked with their places, each once, and never on both sides of the split."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.data import questions, records
from clray.data.questions import Question, QuestionSpec, split
from clray.errors import DataError
from clray.lineage.store import Store
from clray.spec.source import Source
from texts import write_lines

ROWS = [{"question": f"what is {n} and {n}?", "answer": 2 * n, "subject": "sums"} for n in range(40)]


def free(text, *answers, **more):
    return Question(text=text, answers=answers or ("a",), **more)


words = st.text("ab ?.A", min_size=1, max_size=4)
some = st.lists(st.builds(free, words, st.sampled_from("xyX")), max_size=12)


@given(some, some, st.floats(0, 1), st.randoms())
def test_no_text_stands_on_both_sides_whatever_the_order(found, apart, share, shuffle):
    parts = split(found, apart, share)
    sides = {}
    for question in parts:
        assert sides.setdefault(questions.normalised(question.text), question.heldout) is question.heldout
    assert sides.keys() == {questions.normalised(question.text) for question in [*found, *apart]}
    assert len({question.name for question in parts}) == len(parts)
    again = [shuffle.sample(side, len(side)) for side in (found, apart)]
    assert split(*again, share) == parts


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_and_more(one, other):
    found = [free(f"q{n}") for n in range(200)]
    less, more = ({q.name for q in split(found, [], s) if q.heldout} for s in sorted((one, other)))
    assert less <= more


def test_the_share_is_about_what_was_asked_for():
    held = [question.heldout for question in split([free(f"q{n}") for n in range(4000)], [], 0.25)]
    assert abs(sum(held) / 4000 - 0.25) < 0.03


def test_what_stands_in_both_is_held_out_and_stands_once():
    parts = split([free("One?"), free("two"), free("three")], [free("one"), free("four")], 0.9)
    assert {q.text.casefold().strip("?"): q.heldout for q in parts} == dict(one=True, four=True, two=False, three=False)


def test_free_questions_of_one_text_are_one_with_all_answers():
    [one] = split([free("who?", "Ada", "Lovelace"), free("Who", "ada"), free("who", "Byron")], [], 0.5)
    assert {answer.casefold() for answer in one.answers} == {"ada", "lovelace", "byron"}
    [kept] = split([free("who?", "Ada", "Lovelace", "ADA")], [], 0.5)
    assert kept.answers == ("Ada", "Lovelace")


def test_one_text_with_other_options_is_another_question_on_the_same_side():
    pairs = [("a", "b"), ("a", "c"), ("b", "a")]
    found = [Question(text=f"which {n}?", answers=("a",), options=o) for n in range(20) for o in pairs]
    parts = split(random.Random(0).sample(found, len(found)), [], 0.5)
    assert len(parts) == 40
    assert all(len({q.heldout for q in parts if q.text == text}) == 1 for text in {q.text for q in parts})


def test_a_question_as_a_record():
    question = Question(text="which?", answers=("b",), options=("a", "b"))
    assert question.record("Choose.") == {"instruction": "Choose.", "input": "which?\n- a\n- b"}
    assert question.record("Choose.", ["b", "a"])["input"] == "which?\n- b\n- a"
    assert free("who?").record("Say.")["input"] == "who?"


@pytest.fixture
def make(tmp_path, ray_cluster):
    store = Store(str(tmp_path / "store"))

    def spec(*sources, apart=(), **more):
        opened = (records.open_sources([Source(**s) for s in some], store) for some in (sources, apart))
        own, other = opened
        return QuestionSpec(sources=own, heldout_sources=other, **{"heldout": 0.25, **more})

    return store, spec


@pytest.mark.ray
def test_the_set_does_not_depend_on_the_layout_of_the_files(make, tmp_path):
    store, spec = make
    whole = spec({"source": write_lines(tmp_path / "all.jsonl", ROWS)})
    write_lines(tmp_path / "p1.jsonl", ROWS[30:])
    write_lines(tmp_path / "p2.jsonl", ROWS[:31])
    parts = spec({"source": f"{tmp_path}/p*.jsonl"})
    found = questions.read(whole, store)
    assert found == questions.read(parts, store) and len(found) == 40
    assert [q.name for q in found] == sorted(q.name for q in found)
    assert {q.answers for q in found} == {(str(2 * n),) for n in range(40)} and {q.subject for q in found} == {"sums"}
    assert questions.load(store, whole.digest) == tuple(found)
    few = spec({"source": f"{tmp_path}/all.jsonl"}, limit=20)
    assert questions.read(few, store) == found[:20]


@pytest.mark.ray
def test_choices_references_and_mapped_fields_are_read(make, tmp_path):
    store, spec = make
    rows = [{"q": f"which {n}", "answer": n, "choices": [n, "x", "x", n + 1]} for n in range(20)]
    chosen = {"source": write_lines(tmp_path / "a.jsonl", rows), "fields": {"question": "q"}}
    other = [{"question": "who", "answer": [" Ada ", "Lovelace", "Ada"], "choices": None}]
    found = questions.read(spec(chosen, apart=[{"source": write_lines(tmp_path / "b.jsonl", other)}]), store)
    assert [q for q in found if q.heldout] == [free("who", "Ada", "Lovelace", heldout=True)]
    assert {q.options for q in found if not q.heldout} == {(str(n), "x", str(n + 1)) for n in range(20)}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answer": "a"}, "the record has no 'question'"),
        ({"question": " ", "answer": "a"}, "'question' is empty"),
        ({"question": "q"}, "the record has no 'answer'"),
        ({"question": "q", "answer": []}, "'answer' must hold 1 different texts or more"),
        ({"question": "q", "answer": [""]}, "'answer' must hold .* no empty one"),
        ({"question": "q", "answer": [True]}, "'answer' must be text or a number, found bool"),
        ({"question": "q", "answer": "a", "choices": "a"}, "'choices' must be a list of texts, found str"),
        ({"question": "q", "answer": "a", "choices": ["a", "a"]}, "'choices' must hold 2 different texts or more"),
        ({"question": "q", "answer": "B", "choices": ["a", "b"]}, "'B' is none of the choices 'a', 'b'; give its text"),
        ({"question": "q", "answer": "a", "subject": ["x"]}, "'subject' must be text or a number, found list"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(make, tmp_path, row, expected):
    store, spec = make
    source = {"source": write_lines(tmp_path / "bad.jsonl", [ROWS[0], row])}
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{expected}"):
        questions.read(spec(source), store)


@pytest.mark.ray
def test_an_empty_side_is_refused(make, tmp_path):
    store, spec = make
    source = {"source": write_lines(tmp_path / "a.jsonl", ROWS)}
    with pytest.raises(DataError, match=r"none of the 40 questions is held out at heldout=1e-09"):
        questions.read(spec(source, heldout=1e-9), store)
    with pytest.raises(DataError, match=r"all 40 questions are held out at heldout=0\.9999.* lower it"):
        questions.read(spec(source, heldout=0.9999999), store)
    with pytest.raises(DataError, match=r"all 40 questions are held out, none .* take them out of the held-out"):
        questions.read(spec(source, apart=[source]), store)


@pytest.mark.ray
def test_the_address_holds_what_decides_the_set(make, tmp_path):
    _, spec = make
    one, two = ({"source": write_lines(tmp_path / f"{n}.jsonl", ROWS[n:])} for n in (0, 1))
    assert spec(one, two).digest == spec(two, one).digest
    assert spec(one, apart=[two], heldout=0.5).digest == spec(one, apart=[two]).digest
    assert len({s.digest for s in (spec(one), spec(two), spec(one, heldout=0.5), spec(one, limit=3))}) == 4


@pytest.mark.ray
def test_the_real_data_is_read(data_dir, make):
    store, spec = make
    found = questions.read(spec({"source": f"{data_dir}/qa/mmlu_openstax/train.jsonl"}), store)
    assert len(found) > 1300 and all(q.gold in q.options for q in found)
