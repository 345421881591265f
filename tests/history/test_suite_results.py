"""Results of suites, as two generations are compared by them."""

import math

import pytest

from clray.history.flips import flips
from clray.history.paired import difference
from clray.lineage.store import Store


def row(acc, nats, words):
    return {"values": {"acc": [acc, 1.0], "word_perplexity": [nats, words]}, "gold": "red", "prediction": "blue"}


BEFORE = [row(0.0, 3.0, 1), row(1.0, 5.0, 3), row(1.0, 0.0, 0)]
AFTER = [row(1.0, 1.0, 1), row(1.0, 1.0, 3), row(0.0, 0.0, 0)]


def test_a_mean_and_a_perplexity_of_words_by_hand():
    """One of two right, then both; exp(8 / 4) a word, then exp(2 / 4)."""
    found = difference("acc", BEFORE[:2], AFTER[:2])
    assert (found.before, found.after, found.better) == (0.5, 1.0, True)
    found = difference("word_perplexity", BEFORE[:2], AFTER[:2])
    assert (found.before, found.after) == (pytest.approx(math.exp(2)), pytest.approx(math.exp(0.5)))
    assert found.better and found.change < 0


def test_answers_that_turned_are_counted_by_acc(tmp_path):
    found = flips(Store(str(tmp_path)), "", "", "suite", BEFORE, AFTER, most=1)
    assert (found["right"], found["wrong"]) == (1, 1)
    assert [(each["number"], each["became"]) for each in found["examples"]] == [(2, "wrong"), (0, "right")]
    assert found["examples"][0]["wanted"] == "red"
    bare = [{"values": {"word_perplexity": [1.0, 2.0]}}]
    assert flips(Store(str(tmp_path)), "", "", "suite", bare, bare, most=1) == {}
