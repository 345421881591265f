"""Metrics of the score matrix: the published matrices, hand-worked cases, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.evaluation import metrics
from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.metrics import Undefined, continual_metrics, oriented

O_LORA_1 = [[98.71], [98.55, 57.76], [97.41, 57.41, 71.91], [97.74, 56.07, 71.04, 88.62]]
SEQ_FT_1 = [[97.01], [89.11, 55.25], [74.76, 53.45, 72.28], [79.53, 52.67, 48.84, 90.03]]
INC_LORA_1 = [[98.71], [82.47, 57.01], [80.78, 44.95, 72.38], [79.50, 40.82, 64.14, 90.01]]
BASE = [0.1, 0.2, 0.3]


def square(triangle, unseen=None):
    """The lower triangle of a paper as a matrix with an unmeasured base row and upper triangle."""
    size = len(triangle)
    return [[unseen] * size, *([*row, *[unseen] * (size - len(row))] for row in triangle)]


@pytest.mark.parametrize("unseen", [None, 0.0], ids=["not measured", "written as 0, as SAPT does"])
@pytest.mark.parametrize(
    ("triangle", "ap", "forgetting", "bwt", "bwt_over_t"),
    [
        (O_LORA_1, 78.365, 1.180, -1.180, -0.885),
        (SEQ_FT_1, 67.766, 14.500, -14.500, -10.875),
        (INC_LORA_1, 68.618, 14.548, -14.548, -10.911),
    ],
    ids=["O-LoRA", "SeqFT", "IncLoRA"],
)
def test_the_published_matrices_of_o_lora_order_1(triangle, ap, forgetting, bwt, bwt_over_t, unseen):
    """Four tasks from O-LoRA's logs, rounded to two digits."""
    R, learned = square(triangle, unseen), [1, 2, 3, 4]
    assert metrics.average_performance(R, learned) == pytest.approx(ap, abs=0.01)
    assert metrics.forgetting_max(R, learned) == pytest.approx(forgetting, abs=0.01)
    assert metrics.bwt(R, learned) == pytest.approx(bwt, abs=0.01)
    assert metrics.bwt_over_t(R, learned) == pytest.approx(bwt_over_t, abs=0.01)
    assert metrics.forgetting_first(R, learned) == -metrics.bwt(R, learned)


def test_every_variant_by_hand():
    """Three tasks, one a stage, and a probe.

    plasticity (0.9+0.8+0.7)/3 = 0.8; AP (0.5+0.9+0.7)/3 = 0.7; OP_2 (0.6+0.8)/2 = 0.7;
    F.Ra ((0.9-0.5)+(0.8-0.9))/2 = 0.15; BWT ((0.5-0.9)+(0.9-0.8))/2 = -0.15, over T -0.1;
    FWT ((0.4-0.2)+(0.2-0.3))/2 = 0.05; against S = (1, 0.5, 0.5): (-0.1+0.3+0.2)/3 = 0.1333;
    RG 100*(0.5/1 + 0.9/0.5)/2 = 115; delta 0.6-0.5 = 0.1, at t = 1 0.45-0.5 = -0.05.
    """
    R = [[*BASE, 0.5], [0.9, 0.4, 0.3, 0.45], [0.6, 0.8, 0.2, 0.4], [0.5, 0.9, 0.7, 0.6]]
    learned, single = [1, 2, 3, None], [1.0, 0.5, 0.5, None]
    assert metrics.plasticity(R, learned) == pytest.approx(0.8)
    assert metrics.average_performance(R, learned) == pytest.approx(0.7)
    assert metrics.overall_performance(R, learned, t=2) == pytest.approx(0.7)
    assert metrics.forgetting_max(R, learned) == pytest.approx(0.15)
    assert metrics.forgetting_first(R, learned) == pytest.approx(0.15)
    assert metrics.bwt(R, learned) == pytest.approx(-0.15)
    assert metrics.bwt_over_t(R, learned) == pytest.approx(-0.1)
    assert metrics.bwt_over_t(R, learned, t=2) == pytest.approx(-0.15)
    assert metrics.fwt_zero_shot(R, learned) == pytest.approx(0.05)
    assert metrics.fwt_single_task(R, learned, single) == pytest.approx(0.4 / 3)
    assert metrics.relative_gain(R, learned, single) == pytest.approx(115)
    assert metrics.group_delta(R, [3]) == pytest.approx(0.1)
    assert metrics.group_delta(R, [3], t=1) == pytest.approx(-0.05)


def test_the_maximum_can_lie_before_the_tasks_own_stage():
    """Zero-shot 0.9 at row 1 beats 0.8 at its own row 2: max 0.9 - 0.5 = 0.4, first 0.8 - 0.5 = 0.3."""
    R = [[0.1], [0.9], [0.8], [0.5]]
    assert metrics.forgetting_max(R, [2]) == pytest.approx(0.4)
    assert metrics.forgetting_first(R, [2]) == pytest.approx(0.3)


def test_one_generation_may_teach_several_tasks_and_one_none():
    """Row 1 teaches none, row 2 two tasks, row 3 one: FWT over all three, forgetting over the two."""
    R = [[0.1, 0.1, 0.1], [0.2, 0.3, 0.1], [0.9, 0.8, 0.2], [0.7, 0.8, 0.6]]
    learned = [2, 2, 3]
    assert metrics.average_performance(R, learned) == pytest.approx(0.7)
    assert metrics.forgetting_max(R, learned) == pytest.approx(0.1)
    assert metrics.fwt_zero_shot(R, learned) == pytest.approx((0.1 + 0.2 + 0.1) / 3)


def test_a_task_still_to_come_is_not_taught_yet():
    R = [[0.1, 0.1], [0.9, 0.2]]
    assert metrics.average_performance(R, [1, 2]) == 0.9
    with pytest.raises(Undefined, match="taught before the last generation"):
        metrics.bwt(R, [1, 2])


def test_a_missing_cell_is_named():
    R = [[None, None], [0.9, None], [None, 0.8]]
    with pytest.raises(ValueError, match=r"R\[2\]\[0\] was not measured"):
        metrics.average_performance(R, [1, 2])
    with pytest.raises(ValueError, match=r"R\[1\]\[1\] was not measured"):
        metrics.fwt_zero_shot(R, [1, 2])
    with pytest.raises(ValueError, match="no single-task score of task 1"):
        metrics.fwt_single_task(R, [1, 2], [0.5, None])


def matrix(metrics_of, learned_at, rows):
    names = tuple(metrics_of)
    labels = tuple(str(t) for t in range(len(rows)))
    return ScoreMatrix(names, metrics_of, learned_at, labels, labels, tuple(map(tuple, rows)))


def test_units_are_never_averaged_together_and_loss_units_turn():
    """Bits per byte 1.0 -> 1.5 is forgetting of +0.5 and BWT of -0.5; the level stays 1.5 bits per byte."""
    given_matrix = matrix(
        {"law": "bits_per_byte", "quiz": "accuracy", "probe": "accuracy"},
        {"law": 1, "quiz": 2, "probe": None},
        [[2.0, 0.2, 0.5], [1.0, 0.3, 0.5], [1.5, 0.9, 0.4]],
    )
    values = continual_metrics(given_matrix, single={"law": 1.1, "quiz": 0.8})
    assert set(values) == {"bits_per_byte", "accuracy"}
    law, quiz = values["bits_per_byte"], values["accuracy"]
    assert law["average_performance"] == 1.5 and law["plasticity"] == 1.0
    assert law["forgetting_max"] == pytest.approx(0.5) and law["bwt"] == pytest.approx(-0.5)
    assert law["fwt_single_task"] == pytest.approx(0.1)
    assert "relative_gain" not in law and "fwt_zero_shot" not in law
    assert quiz["fwt_zero_shot"] == pytest.approx(0.1)
    assert quiz["general_ability_delta"] == pytest.approx(-0.1)
    assert quiz["bwt_over_t"] == 0 and "bwt" not in quiz


def test_the_base_alone_defines_nothing_but_a_delta_of_nought():
    assert continual_metrics(matrix({"a": "accuracy"}, {"a": 1}, [[0.5]])) == {"accuracy": {}}
    assert continual_metrics(matrix({"a": "accuracy"}, {"a": None}, [[0.5]])) == {
        "accuracy": {"general_ability_delta": 0.0}
    }


score = st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 4))


@st.composite
def streams(draw):
    """A full matrix of at least two tasks, each taught by some row, one of them before the last."""
    num_tasks, num_rows = draw(st.integers(2, 5)), draw(st.integers(3, 6))
    rows = [[draw(score) for _ in range(num_tasks)] for _ in range(num_rows)]
    learned = [draw(st.integers(1, num_rows - 2))]
    learned += [draw(st.integers(1, num_rows - 1)) for _ in range(num_tasks - 1)]
    return rows, learned


@given(streams())
def test_the_best_score_is_never_below_the_first(stream):
    R, learned = stream
    assert metrics.forgetting_max(R, learned) >= metrics.forgetting_first(R, learned) - 1e-12


@given(streams())
def test_average_is_plasticity_plus_transfer(stream):
    """mean R[T][i] = mean R[i][i] + mean (R[T][i] - R[i][i]), the last being BWT over T."""
    R, learned = stream
    total = metrics.plasticity(R, learned) + metrics.bwt_over_t(R, learned)
    assert metrics.average_performance(R, learned) == pytest.approx(total, abs=1e-9)


@given(streams(), st.randoms(use_true_random=False))
def test_the_order_of_the_columns_does_not_matter(stream, random):
    R, learned = stream
    order = random.sample(range(len(learned)), len(learned))
    turned, moved = [[row[i] for i in order] for row in R], [learned[i] for i in order]
    for name, function in {**metrics.LEVELS, **metrics.DIFFERENCES}.items():
        if name != "fwt_zero_shot":
            assert function(turned, moved) == pytest.approx(function(R, learned), abs=1e-9), name


@given(streams())
def test_a_constant_shift_changes_levels_only(stream):
    R, learned = stream
    shifted = [[x + 1 for x in row] for row in R]
    assert metrics.plasticity(shifted, learned) == pytest.approx(metrics.plasticity(R, learned) + 1)
    for function in (metrics.bwt, metrics.forgetting_max, metrics.bwt_over_t):
        assert function(shifted, learned) == pytest.approx(function(R, learned), abs=1e-9)


@given(streams())
def test_turning_twice_gives_the_matrix_back(stream):
    R, learned = stream
    lower = [bool(k % 2) for k in learned]
    assert oriented(oriented(R, lower), lower) == R
