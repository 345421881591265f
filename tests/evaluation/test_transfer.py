"""The continual pre-training benchmark: hand-worked matrices, sparse ones, and properties."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.transfer import (
    COLUMNS,
    Correlation,
    Quartiles,
    correlation,
    quartiles,
    similarity_correlation,
    transfers,
)

ROWS = [
    [10.0, 20.0, 40.0, 5.0, 0.3],
    [8.0, 18.0, 44.0, 5.5, 0.4],
    [9.0, 10.0, 36.0, 6.0, 0.5],
    [9.5, 12.0, 20.0, 6.5, 0.6],
]
EXPERTS = {"law": 8.5, "art": 9.0, "sea": 25.0, "probe": 1.0}


def matrix(rows=ROWS, tasks=("law", "art", "sea", "probe", "quiz"), learned=(1, 2, 3, None, 3), metrics=None):
    """Three domains and a probe in perplexity, and a task in accuracy; one domain a stage."""
    units = dict.fromkeys(tasks, "perplexity") | ({"quiz": "accuracy"} if "quiz" in tasks else {}) | (metrics or {})
    stages = ("base", *(f"s{n}" for n in range(1, len(rows))))
    return ScoreMatrix(
        tuple(tasks), units, dict(zip(tasks, learned, strict=True)), stages, stages, tuple(map(tuple, rows))
    )


def only(found):
    """The one transfer of a matrix in one unit."""
    [transfer] = found
    return transfer


def cells(transfer):
    """The per-domain table without its names."""
    return [[getattr(domain, name) for name in COLUMNS] for domain in transfer.domains]


def test_the_table_of_three_domains_by_hand():
    """law: 10, alone 8.5, own stage 8, last 9.5, so 1.5 lost. The probe and the task in accuracy are left out."""
    transfer = only(transfers(matrix(), EXPERTS))
    assert transfer.metric == "perplexity" and [d.task for d in transfer.domains] == ["law", "art", "sea"]
    assert cells(transfer) == [
        [10.0, 8.5, 8.0, 9.5, 1.5],
        [20.0, 9.0, 10.0, 12.0, 2.0],
        [40.0, 25.0, 20.0, 20.0, 0.0],
    ]
    assert transfer.medians["zs"] == Quartiles(3, 15.0, 20.0, 30.0)
    assert transfer.medians["fg"] == Quartiles(3, 0.75, 1.5, 1.75)
    assert transfer.beats_expert == (2, 3)


def test_transfer_by_distance_by_hand():
    """Changes against zero-shot in percent; sea at row 1 is 44 of 40, so -10.

    before: sea -10 at -2; art +10 and sea +10 at -1. Own stages: law +20, art +50, sea +50. After: law +10 and
    art +40 at 1; law +5 at 2. Backward over (10, 40, 5): median 10; forward over (-10, 10, 10): median 10.
    """
    transfer = only(transfers(matrix(), EXPERTS))
    curve = [(at.distance, at.change.count, round(100 * at.change.median, 6)) for at in transfer.distances]
    assert curve == [(-2, 1, -10.0), (-1, 2, 10.0), (0, 3, 50.0), (1, 2, 25.0), (2, 1, 5.0)]
    assert transfer.distances[3].change == Quartiles(2, *map(pytest.approx, (0.175, 0.25, 0.325)))
    assert transfer.backward == Quartiles(3, *map(pytest.approx, (0.075, 0.1, 0.25)))
    assert transfer.forward == Quartiles(3, *map(pytest.approx, (0.0, 0.1, 0.1)))


def test_loss_of_learning_by_hand():
    """Gains over DAPT 1/17, -1/9, 1/5 at stages 1, 2, 3: ranks 2, 1, 3, so rho = 0.5; slope (1/5 - 1/17) / 2."""
    learning = only(transfers(matrix(), EXPERTS)).learning
    assert learning.count == 3 and learning.rho == pytest.approx(0.5)
    assert learning.slope == pytest.approx((1 / 5 - 1 / 17) / 2)
    assert only(transfers(matrix(), {"law": 8.5, "art": 9.0})).learning == Correlation(2)


def test_cells_that_were_not_measured_are_left_out_and_counted():
    """Only zero-shot, own stages and the last row are measured, art was not measured at its own stage, and sea's
    last score ran away; no experts."""
    rows = [ROWS[0], [8.0, None, None, None, None], [None] * 5, [9.5, 12.0, math.inf, None, 0.6]]
    transfer = only(transfers(matrix(rows)))
    assert cells(transfer) == [
        [10.0, None, 8.0, 9.5, 1.5],
        [20.0, None, None, 12.0, None],
        [40.0, None, None, None, None],
    ]
    assert {name: spread and spread.count for name, spread in transfer.medians.items()} == {
        "zs": 3, "dapt": None, "cpt": 1, "lc": 2, "fg": 1
    }  # fmt: skip
    assert transfer.beats_expert == (0, 0) and transfer.learning == Correlation(0)
    assert [(at.distance, at.change.count) for at in transfer.distances] == [(0, 1), (1, 1), (2, 1)]
    assert transfer.forward is None and transfer.backward.count == 2


def test_each_unit_stands_alone_and_a_matrix_without_one_has_none():
    found = transfers(matrix(metrics={"sea": "bits_per_byte", "probe": "bits_per_byte"}), EXPERTS)
    assert [(t.metric, [d.task for d in t.domains]) for t in found] == [
        ("perplexity", ["law", "art"]),
        ("bits_per_byte", ["sea"]),
    ]
    assert transfers(matrix([[0.1], [0.9]], ("quiz",), (1,))) == ()
    assert transfers(matrix([[9.0], [8.0]], ("law",), (None,))) == ()


def test_a_domain_still_to_come_is_left_out_and_a_stage_may_teach_two_or_none():
    """Stage 1 teaches none, stage 2 sea and law, and art's stage is still to come."""
    transfer = only(transfers(matrix(ROWS[:3], learned=(2, 3, 2, None, None)), EXPERTS))
    assert [(d.task, d.stage, d.learned) for d in transfer.domains] == [("law", "s2", 2), ("sea", "s2", 2)]
    assert [(at.distance, at.change.count) for at in transfer.distances] == [(-1, 2), (0, 2)]


def test_a_reference_of_nought_is_no_reference():
    transfer = only(transfers(matrix([[0.0], [1.0]], ("law",), (1,)), {"law": 0.0}))
    assert transfer.domains[0].change(1) is None and transfer.domains[0].gain is None and transfer.distances == ()


def test_the_plain_values_are_json_and_keep_every_count():
    values = json.loads(json.dumps(only(transfers(matrix(), EXPERTS)).to_dict(), allow_nan=False))
    assert values["domains"][0] == {
        "task": "law", "stage": "s1", "learned": 1, "zs": 10.0, "dapt": 8.5, "cpt": 8.0, "lc": 9.5, "fg": 1.5
    }  # fmt: skip
    assert values["medians"]["lc"] == {"count": 3, "low": 10.75, "median": 12.0, "high": 16.0}
    assert values["beats_expert"] == {"count": 2, "of": 3} and values["learning"]["count"] == 3
    assert [at["distance"] for at in values["distances"]] == [-2, -1, 0, 1, 2]
    assert values["distances"][0] == {"distance": -2, "count": 1, "low": -0.1, "median": -0.1, "high": -0.1}
    empty = only(transfers(matrix([[9.0], [None]], ("law",), (1,)))).to_dict()
    assert empty["medians"]["cpt"] is None and empty["backward"] is None and empty["forward"] is None


def test_similarity_goes_with_what_a_stage_brings_by_hand():
    """What stage i alone brings, in percent, beside cos(i, j):

    law to art +10 (0.5), law to sea -10 (0.1); art to law -12.5 (0.5), art to sea 8/44 = +18.2 (0.9);
    sea to law -5.6 (0.1), sea to art -20 (0.9). Ranks of x 3.5 1.5 3.5 5.5 1.5 5.5, of y 5 3 2 6 4 1:
    sum of products of deviations 0, so rho = 0.
    """
    cosine = [[1.0, 0.5, 0.1], [0.5, 1.0, 0.9], [0.1, 0.9, 1.0]]
    transfer = only(transfers(matrix(), EXPERTS))
    found = similarity_correlation({"domains": ["law", "art", "sea"], "cosine": cosine}, transfer)
    assert found.count == 6 and found.rho == pytest.approx(0.0, abs=1e-12)
    by_stage = similarity_correlation({"stages": ["s1", "s2", "s3"], "cosine": cosine}, transfer)
    assert by_stage == found
    turned = [row[::-1] for row in cosine[::-1]]
    assert similarity_correlation({"domains": ["sea", "art", "law"], "cosine": turned}, transfer).count == 6


def test_similarity_leaves_out_what_it_does_not_know():
    """Without sea two pairs are left, too few for a correlation; a cell that was not measured loses its two steps."""
    transfer = only(transfers(matrix(), EXPERTS))
    assert similarity_correlation({"domains": ["law", "art"], "cosine": [[1, 0.5], [0.5, 1]]}, transfer) == Correlation(
        2
    )
    sparse = only(transfers(matrix([ROWS[0], [8.0, 18.0, None, 5.5, 0.4], *ROWS[2:]])))
    cosine = [[1.0, 0.5, 0.1], [0.5, 1.0, 0.9], [0.1, 0.9, 1.0]]
    assert similarity_correlation({"domains": ["law", "art", "sea"], "cosine": cosine}, sparse).count == 4


def test_domains_of_one_stage_are_no_pair_and_one_stage_is_counted_once():
    """Stage 1 teaches law and art, stage 2 sea: by stages the pairs are (s1, sea), (s2, law) and (s2, art)."""
    transfer = only(transfers(matrix(ROWS[:3], learned=(1, 1, 2, None, None))))
    cosine = [[1.0, 0.3], [0.3, 1.0]]
    assert similarity_correlation({"stages": ["s1", "s2"], "cosine": cosine}, transfer) == Correlation(3)


@pytest.mark.parametrize(
    "pairs", [[], [(1, 2), (2, 3)], [(1, 2), (1, 3), (1, 4)], [(1, 2), (2, 2), (3, 2)]]
)  # fmt: skip
def test_what_does_not_vary_has_no_correlation(pairs):
    assert correlation(pairs) == Correlation(len(pairs))


score = st.floats(0.5, 50, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def streams(draw):
    """A sparse matrix of two to five domains, one a stage, in any order, with some experts."""
    size = draw(st.integers(2, 5))
    names = [f"d{n}" for n in range(size)]
    rows = [[draw(st.none() | score) for _ in names] for _ in range(size + 1)]
    experts = draw(st.dictionaries(st.sampled_from(names), score))
    return matrix(rows, names, draw(st.permutations(range(1, size + 1)))), experts


@settings(deadline=None)
@given(streams())
def test_every_measured_change_stands_at_one_distance(stream):
    transfer = only(transfers(*stream))
    total = sum(at.change.count for at in transfer.distances)
    own = sum(domain.change(domain.learned) is not None for domain in transfer.domains)
    sides = [side.count for side in (transfer.backward, transfer.forward) if side]
    assert total == own + sum(sides)
    assert [d.learned for d in transfer.domains] == list(range(1, len(transfer.domains) + 1))
    for at in transfer.distances:
        assert at.change.low <= at.change.median <= at.change.high <= 1


@settings(deadline=None)
@given(streams(), st.floats(0.1, 10))
def test_another_unit_changes_no_share(stream, factor):
    """Nats or bits, a constant factor moves scores and forgetting alone."""
    given_matrix, experts = stream
    scaled = ScoreMatrix.from_dict(
        given_matrix.to_dict() | {"R": [[None if x is None else x * factor for x in row] for row in given_matrix.R]}
    )
    before = only(transfers(given_matrix, experts))
    after = only(transfers(scaled, {task: x * factor for task, x in experts.items()}))
    for a, b in zip(before.distances, after.distances, strict=True):
        assert (a.distance, a.change.count) == (b.distance, b.change.count)
        assert a.change.median == pytest.approx(b.change.median, abs=1e-9)
    for a, b in zip(cells(before), cells(after), strict=True):
        assert [x is None for x in a] == [x is None for x in b]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.randoms(use_true_random=False))
def test_quartiles_lie_in_order_within_the_values(values, random):
    found = quartiles([*values, None])
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert quartiles(random.sample(values, len(values))) == found and found.count == len(values)
