"""What lines said of a generation, as a store keeps it: the last word of each counts."""

import pytest

from clray.lineage import verdicts
from clray.lineage.gate import Decision, Verdict
from clray.lineage.store import Store

GOOD = Verdict(decision=Decision.ACCEPT, why="fine", falls={"forgetting": {"accuracy": 0.0}})
BAD = Verdict(decision=Decision.REJECT, why="forgets", falls={"forgetting": {"accuracy": 0.5}})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_nobody_asked_is_no_status(store):
    assert verdicts.status(store, "k") == "" and verdicts.verdict_of(store, "k", "q") is None
    assert verdicts.rejections(store, "k") == []


def test_one_line_that_rejects_is_enough(store):
    verdicts.keep(store, "k", "q1", "s", "stream", GOOD)
    assert verdicts.status(store, "k") == verdicts.ACCEPTED
    verdicts.keep(store, "k", "q2", "s", "strict", BAD)
    assert verdicts.status(store, "k") == verdicts.REJECTED
    assert verdicts.rejections(store, "k", "s") == ["line 'strict' of stream 's': forgets"]
    assert verdicts.rejections(store, "k", "another") == []
    assert verdicts.verdict_of(store, "k", "q1") == GOOD and verdicts.verdict_of(store, "k", "q2") == BAD


def test_what_a_line_said_last_counts_and_going_back_counts_too(store):
    verdicts.keep(store, "k", "strict", "s", "stream", BAD)
    verdicts.keep(store, "k", "loose", "s", "stream", GOOD)
    assert verdicts.status(store, "k") == verdicts.ACCEPTED
    verdicts.keep(store, "k", "strict", "s", "stream", BAD)
    assert verdicts.status(store, "k") == verdicts.REJECTED
    assert [one["number"] for one in verdicts.standing(store, "k")] == [3]


def test_the_same_again_writes_nothing(store):
    verdicts.keep(store, "k", "q", "s", "stream", BAD)
    before = verdicts.standing(store, "k")
    verdicts.keep(store, "k", "q", "s", "stream", BAD)
    assert verdicts.standing(store, "k") == before
