"""A judgement is taken from the store where it was made by the same rule and exam, and made again elsewhere."""

import pytest

from clray.evolving.judging import VERSION, end, judgement_of
from clray.lineage.store import Store
from clray.spec.evolve import Stop

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


def test_a_stage_is_ended_where_its_next_round_has_nothing_to_learn(store):
    end("k", "no mistake is left", store)
    assert judgement_of("k", store, RULE)["stop"] == "no mistake is left"
