"""InsCL's quotas and draws: exact sums, never beyond what there is, monotone in distance, the same again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.replay.draw import Index, draw, quotas_of
from clray.replay.inscl import Evidence, sample

OWN = Index("own", "digest-own", np.full(90, 10, dtype=np.int64))


def index(name, sizes):
    """A record set with `sizes[i]` rows of instruction i."""
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    texts = tuple(f"{name} {i}" for i in range(len(sizes)))
    return Index(name, f"digest-{name}", np.full(len(groups), 10, dtype=np.int64), texts, groups)


def evidence(distances, past, quotas_by="distance", insinfo=None):
    return Evidence(
        quotas_by=quotas_by,
        distances=None if distances is None else tuple(distances),
        insinfo=insinfo or tuple(np.ones(len(p.instructions)) for p in past),
        tags=tuple(tuple(("tag",) for _ in p.instructions) for p in past),
        stages=len(past),
        solver="exact",
        why="because",
    )


def drawn(replay, past, found, seed=0):
    return draw({"kind": "inscl", **replay}, OWN, past, seed, found)


PAST = [index("a", [100]), index("b", [50, 50]), index("c", [10] * 10)]


def test_quotas_follow_the_distance():
    """B = 200 x 3 capped by 100 rows each is all; with 20 a task, 60 go 1 : 2 : 3."""
    assert quotas_of({"kind": "inscl", "rows_per_past_task": 20}, OWN, PAST, evidence([0.1, 0.2, 0.3], PAST)) == [
        10,
        20,
        30,
    ]


def test_a_fixed_total_stays_however_many_stages_are_past():
    found = evidence([1.0, 1.0, 2.0], PAST)
    assert quotas_of({"kind": "inscl", "rows": 40}, OWN, PAST, found) == [10, 10, 20]
    two = evidence([1.0, 1.0], PAST[:2])
    assert quotas_of({"kind": "inscl", "rows": 40}, OWN, PAST[:2], two) == [20, 20]


def test_what_a_small_stage_cannot_give_goes_to_the_others():
    past = [index("tiny", [3]), index("big", [500])]
    assert quotas_of({"kind": "inscl", "rows_per_past_task": 50}, OWN, past, evidence([9.0, 1.0], past)) == [3, 97]


def test_inverse_and_equal_are_the_ablations():
    replay = {"kind": "inscl", "rows": 30}
    assert quotas_of(replay, OWN, PAST[:2], evidence([0.1, 0.2], PAST[:2], "inverse_distance")) == [20, 10]
    assert quotas_of(replay, OWN, PAST[:2], evidence(None, PAST[:2], "equal")) == [15, 15]
    assert quotas_of(replay, OWN, PAST[:2], evidence([0.0, 0.2], PAST[:2], "inverse_distance")) == [30, 0]


@pytest.mark.parametrize("quotas_by", ["distance", "inverse_distance"])
def test_identical_tasks_get_equal_quotas(quotas_by):
    assert quotas_of({"kind": "inscl", "rows": 30}, OWN, PAST, evidence([0.0] * 3, PAST, quotas_by)) == [10, 10, 10]


def test_one_past_task_with_one_instruction():
    [only] = drawn({"rows": 7}, PAST[:1], evidence([0.4], PAST[:1]))
    assert len(only.rows) == 7 == len(set(only.rows.tolist()))


def test_more_quota_than_rows_gives_all_rows():
    found = drawn({"rows_per_past_task": 1000}, PAST, evidence([0.1, 0.2, 0.3], PAST))
    assert [d.rows.tolist() for d in found] == [list(range(100))] * 3


def test_few_rows_go_to_the_highest_insinfo_one_each():
    groups = index("c", [10] * 5).groups
    rows = sample(2, groups, np.array([0.5, 3.0, 1.0, 2.0, 0.0]), np.random.default_rng(0))
    assert sorted(groups[rows].tolist()) == [1, 3]


def test_many_rows_go_by_the_share_of_insinfo():
    """InsInfo 1 : 1 : 2 of 40 rows: 10, 10, 20."""
    groups = index("c", [30] * 3).groups
    rows = sample(40, groups, np.array([1.0, 1.0, 2.0]), np.random.default_rng(0))
    assert np.bincount(groups[rows]).tolist() == [10, 10, 20]


def test_no_instruction_loses_its_last_row():
    """Five instructions, five rows; four of them round up from nothing, and the fifth gives way."""
    groups = index("c", [9] * 5).groups
    rows = sample(5, groups, np.array([100.0, 0.1, 0.1, 0.1, 0.1]), np.random.default_rng(0))
    assert np.bincount(groups[rows], minlength=5).tolist() == [1] * 5


def test_insinfo_of_nothing_is_shared_equally():
    groups = index("c", [1, 1, 80]).groups
    assert np.bincount(groups[sample(12, groups, np.zeros(3), np.random.default_rng(0))]).tolist() == [1, 1, 10]


def test_the_receipt_tells_distance_rows_and_insinfo():
    [a, b] = drawn({"rows": 30}, PAST[:2], evidence([0.1, 0.2], PAST[:2]))
    receipt = b.receipt()
    assert receipt["distance"] == 0.2 and receipt["rows"] == 20 == receipt["asked"]
    assert receipt["solver"] == "exact" and receipt["distinct_instructions"] == 2
    assert sum(i["rows"] for i in receipt["instructions"]) == 20
    assert receipt["instructions"][0] == {
        "text": "b 0",
        "rows": receipt["instructions"][0]["rows"],
        "of_rows": 50,
        "insinfo": 1.0,
        "tags": ["tag"],
    }
    assert a.receipt()["distance"] == 0.1


def test_the_spread_says_how_unequal_quotas_are():
    assert evidence([0.1, 0.3], PAST[:2]).spread() == pytest.approx(3.0)
    assert evidence([0.2, 0.2], PAST[:2]).spread() == 1.0
    assert evidence([0.0, 0.2], PAST[:2]).spread() == float("inf")


SETS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=6)


@given(SETS, st.integers(0, 200), st.integers(0, 5), st.data())
def test_draws_are_exact_capped_monotone_and_repeatable(sets, rows, seed, data):
    past = [index(f"s{i}", sizes) for i, sizes in enumerate(sets)]
    distances = data.draw(st.lists(st.floats(0, 2), min_size=len(past), max_size=len(past)))
    insinfo = tuple(np.array(data.draw(st.lists(st.floats(0, 50), min_size=len(s), max_size=len(s)))) for s in sets)
    found = evidence(distances, past, insinfo=insinfo)
    first = drawn({"rows": rows}, past, found, seed)
    assert sum(len(d.rows) for d in first) == min(rows, sum(map(sum, sets)))
    for one in first:
        assert len(np.unique(one.rows)) == len(one.rows) == one.asked <= one.origin.rows
    for x in range(len(past)):
        for y in range(len(past)):
            if distances[x] > distances[y] and first[x].asked < first[y].asked - 1:
                assert first[x].asked == past[x].rows
    again = drawn({"rows": rows}, past, found, seed)
    assert [d.rows.tolist() for d in again] == [d.rows.tolist() for d in first]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 80), st.data())
def test_a_sample_covers_every_instruction_once_there_is_room(sizes, quota, data):
    insinfo = np.array(data.draw(st.lists(st.floats(0, 9), min_size=len(sizes), max_size=len(sizes))))
    groups = index("x", sizes).groups
    rows = sample(quota, groups, insinfo, np.random.default_rng(0))
    assert len(rows) == min(quota, sum(sizes)) == len(np.unique(rows))
    if quota >= len(sizes):
        assert set(groups[rows].tolist()) == set(range(len(sizes)))
    else:
        assert len(set(groups[rows].tolist())) == quota
