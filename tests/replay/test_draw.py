"""Draws have exact quotas, depend on seed and content alone, and leave a receipt."""

import numpy as np
import pytest

from clray.replay.draw import Index, draw


def index(name: str, rows: int, tokens: int = 10) -> Index:
    return Index(name, f"digest-{name}", np.full(rows, tokens, dtype=np.int64))


OWN, LONG, SHORT = index("own", 90), index("long", 300), index("short", 100)


def sizes(replay, past=(LONG, SHORT)):
    return [len(d.rows) for d in draw(replay, OWN, past, seed=0)]


def test_none_draws_nothing():
    assert sizes({"kind": "none"}) == []


def test_share_is_a_share_of_the_whole_mixture():
    """Share 0.25 of a mixture with 90 own rows: 30 replayed; by size 300:100 that is 22.5 and 7.5, tie to the first."""
    assert sizes({"kind": "random", "share": 0.25, "of": "examples"}) == [23, 7]


def test_balanced_gives_each_the_same():
    assert sizes({"kind": "balanced", "share": 0.25, "of": "examples"}) == [15, 15]


@pytest.mark.parametrize("kind", ["random", "balanced"])
def test_rows_per_past_task_is_capped_by_what_there_is(kind):
    assert sizes({"kind": kind, "rows_per_past_task": 200}) == [200, 100]


def test_share_of_tokens_comes_as_near_as_whole_examples_allow():
    drawn = draw(
        {"kind": "balanced", "share": 0.5, "of": "tokens"}, OWN, [index("a", 100, 7), index("b", 100, 7)], seed=1
    )
    assert [d.asked for d in drawn] == [450, 450]
    assert all(abs(d.receipt()["tokens"] - 450) <= 4 for d in drawn)


def test_same_seed_same_rows_other_seed_others():
    replay = {"kind": "random", "share": 0.25, "of": "examples"}
    first, again, other = (draw(replay, OWN, [LONG], seed=s)[0].rows.tolist() for s in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == len(first) == 30


def test_the_receipt_names_every_row():
    receipt = draw({"kind": "random", "rows_per_past_task": 3}, OWN, [SHORT], seed=0)[0].receipt()
    assert receipt["stage"] == "short" and receipt["of_rows"] == 100 and receipt["tokens"] == 30
    assert len(receipt["row_numbers"]) == receipt["rows"] == 3
