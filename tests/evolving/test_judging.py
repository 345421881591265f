"""A judgement is taken from the store where it was made by the same rule and exam, and made again elsewhere."""

import pytest

from clray.evolving.judging import VERSION, judgement_of, nothing_left
from clray.lineage.store import Store
from clray.spec.evolve import Round, Stop

RULE = Stop(delta=0.01)


@pytest.fixture
def store(tmp_path):
    place = Store(str(tmp_path))
    place.write_json(
        "evolved/k.json", {"exam": "e", "rule": {"version": VERSION, "delta": 0.01, "flips": None}, "stop": "enough"}
    )
    place.write_json("evolved/before.json", {"exam": "e", "rule": {"delta": 0.01, "flips": None}, "stop": None})
    place.write_json("evolved/old.json", {"exam": "e", "stop": "enough"})
    return place


def test_a_judgement_is_taken_where_rule_and_exam_are_the_same(store):
    assert judgement_of("k", store, RULE)["stop"] == judgement_of("k", store, RULE, "e")["stop"] == "enough"


def test_another_rule_or_exam_asks_for_a_new_one(store):
    assert judgement_of("k", store, Stop(delta=0.0)) is None and judgement_of("k", store, Stop(flips=0.5)) is None
    assert judgement_of("k", store, RULE, "with a judge") is None
    assert judgement_of("before", store, RULE) is None
    assert judgement_of("old", store, RULE) is None and judgement_of("none", store, RULE) is None


def result(kind, heldout=False):
    """A question's result of that kind."""
    unsure = kind == "ambiguous"
    return {
        "heldout": heldout,
        "likeliest_right": kind != "knowledge",
        "parse_fail": kind == "schema",
        "entropy": 1.0 if unsure else 0.0,
        "margin": 0.9,
    }


def asked(control="none", half=""):
    return Round(questions="q.jsonl", knowledge={"sources": "k.jsonl"}, of="s", number=1, control=control, half=half)


def test_a_stage_ends_where_nothing_is_left_to_learn():
    known = [result("known"), result("known"), result("knowledge", heldout=True)]
    assert nothing_left(asked(), known) == "it knows the answers of all 2 questions to learn from, and is sure of them"
    for kind in ("knowledge", "ambiguous", "schema"):
        assert nothing_left(asked(), [*known, result(kind)]) is None


def test_reading_alone_ends_where_nothing_is_looked_up():
    formless = [result("known"), result("schema")]
    for reading in (asked("cpt_only"), asked("cit_only", half="cit")):
        assert "1 lack the form alone, which is not learnt by reading" in nothing_left(reading, formless)
        assert nothing_left(reading, [*formless, result("ambiguous")]) is None
    assert nothing_left(asked("format_only"), formless) is None
