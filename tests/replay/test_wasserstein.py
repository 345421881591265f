"""Transport costs agree with the assignment problem and with closed forms; each solver says what it is worth."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from clray.replay import wasserstein
from clray.replay.wasserstein import METRICS, SOLVERS, choose, distance

QUICK = settings(max_examples=25, deadline=None)
NAMES = pytest.mark.parametrize("solver", SOLVERS)
COSTS = pytest.mark.parametrize("metric", METRICS)


def points(rows: int, width: int = 6, seed: int = 0, middle: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)) + middle


def clusters(sizes: list[int], axes: list[int], width: int = 40, seed: int = 0) -> np.ndarray:
    """Unit-like vectors around some of the axes."""
    centres = np.repeat(np.eye(width)[axes], sizes, axis=0)
    return centres + 0.005 * np.random.default_rng(seed).standard_normal(centres.shape)


def value(x, y, solver="exact", metric="cosine", a=None, b=None, seed=0) -> float:
    a, b = np.ones(len(x)) if a is None else a, np.ones(len(y)) if b is None else b
    return distance(x, a, y, b, metric, solver, seed).value


def assigned(x, y, metric) -> float:
    """The same by SciPy's assignment, for two uniform sets of one size."""
    cost = cdist(x, y, metric)
    return cost[linear_sum_assignment(cost)].mean()


# exact


@COSTS
def test_exact_is_the_best_assignment(metric):
    x, y = points(40), points(40, seed=1, middle=0.3)
    assert value(x, y, metric=metric) == pytest.approx(assigned(x, y, metric), rel=1e-9)


@COSTS
def test_a_weight_counts_as_that_many_rows(metric):
    x, y = points(5), points(4, seed=1)
    a, b = np.array([1, 2, 3, 4, 2]), np.array([6, 1, 2, 3])
    repeated = assigned(np.repeat(x, a, axis=0), np.repeat(y, b, axis=0), metric)
    assert value(x, y, metric=metric, a=a * 1e-3, b=b * 1e6) == pytest.approx(repeated, rel=1e-9)


def test_on_a_line_it_is_the_area_between_the_distributions():
    x, y = points(30, 1), points(50, 1, seed=1)
    a, b = np.random.default_rng(2).random(30), np.random.default_rng(3).random(50)
    expected = wasserstein_distance(x[:, 0], y[:, 0], a, b)
    assert value(x, y, metric="euclidean", a=a, b=b) == pytest.approx(expected, rel=1e-6)
    assert value(x, y, "sliced", "euclidean", a, b) == pytest.approx(expected, rel=1e-6)


def test_worked_by_hand():
    """Half of the mass at 0 stays, the other half goes from 0 to 3; squared, that is 9 / 2."""
    x, y = [[0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]
    assert value(x, y, metric="euclidean") == pytest.approx(1.5)
    assert value(x, y, metric="sqeuclidean") == pytest.approx(4.5)


def test_too_few_iterations_are_repeated_and_never_a_wrong_value(monkeypatch):
    """POT warns and returns a cost that is too high."""
    ot, limits = wasserstein._pot(), []
    plain, x, y = ot.emd2, points(300), points(300, seed=1)

    def short(*given, numItermax, **others):
        limits.append(numItermax)
        return plain(*given, numItermax=numItermax // 100, **others)

    monkeypatch.setattr(ot, "emd2", short)
    assert value(x, y) == pytest.approx(assigned(x, y, "cosine"))
    assert limits == [100_000, 1_000_000]
    monkeypatch.setattr(ot, "emd2", lambda *given, numItermax, **others: plain(*given, numItermax=10, **others))
    with pytest.raises(ArithmeticError, match="no exact plan of 300 x 300"):
        value(x, y)


# all solvers


@NAMES
@COSTS
def test_equal_sets_are_0_apart_in_any_order(solver, metric):
    x, a = points(60), np.random.default_rng(1).random(60)
    order = np.random.default_rng(2).permutation(60)
    assert value(x, x, solver, metric, a, a) == pytest.approx(0, abs=1e-9)
    assert value(x, x[order], solver, metric, a, 7 * a[order]) == pytest.approx(0, abs=1e-6)


@NAMES
@COSTS
def test_there_and_back_is_the_same(solver, metric):
    x, y = points(30), points(50, seed=1, middle=0.5)
    there, back = value(x, y, solver, metric), value(y, x, solver, metric)
    assert there > 0
    assert there == pytest.approx(back, rel=1e-6)


@NAMES
def test_one_instruction_each(solver):
    """Sliced directions make whole bases here, which leave no error: 520 directions of width 6 + 2 are 65 bases."""
    x, y = points(1, 7), points(1, 7, seed=1)
    assert value(x, y, solver) == pytest.approx(cdist(x, y, "cosine")[0, 0], rel=1e-6)


@NAMES
@COSTS
def test_one_instruction_against_many_is_the_mean_cost(solver, metric):
    x, y = points(1), points(9, seed=1)
    tolerance = {"sinkhorn": 0.1, "sliced": 0.1}.get(solver, 1e-9)
    assert value(x, y, solver, metric) == pytest.approx(cdist(x, y, metric).mean(), rel=tolerance)


@NAMES
def test_a_zero_row_is_1_from_all_but_another_one(solver):
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert value(zero, one, solver) == pytest.approx(1, rel=1e-6)
    assert value(zero, zero, solver) == 0
    assert np.isfinite(value(np.vstack([zero, points(4, 3)]), points(6, 3, seed=1), solver))


@NAMES
def test_rows_without_weight_do_not_count(solver):
    x, y = points(8), points(7, seed=1)
    a = np.array([1, 1, 0, 1, 1, 1, 0, 1.0])
    assert value(x, y, solver, a=a) == pytest.approx(value(x[a > 0], y, solver), rel=1e-9)


@NAMES
def test_duplicates_count_each(solver):
    x, y = points(4), points(5, seed=1)
    twice = np.vstack([x, x[:2]])
    assert value(twice, y, solver) == pytest.approx(value(x, y, solver, a=[2, 2, 1, 1]), rel=0.02)


@NAMES
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_all_is_computed_in_float64(solver, kind):
    x, y = points(20).astype(kind), points(30, seed=1).astype(kind)
    found = distance(x, np.ones(20, kind), y, np.ones(30, kind), solver=solver)
    assert type(found.value) is float
    assert found.value == value(x.astype(np.float64), y.astype(np.float64), solver)


@NAMES
def test_same_seed_same_bits(solver, monkeypatch):
    monkeypatch.setattr(wasserstein, "SAMPLE", 20)
    x, y = points(60), points(50, seed=1)
    assert value(x, y, solver, seed=3) == value(x, y, solver, seed=3)
    differs = value(x, y, solver, seed=3) != value(x, y, solver, seed=4)
    assert differs == (solver in ("sliced", "sampled"))


@NAMES
def test_nearer_clusters_come_first_with_every_solver(solver):
    """The newest set lies around axes 0-3; the others share 3, 2, 1 and 0 of them."""
    newest = clusters([10] * 4, [0, 1, 2, 3])
    others = [clusters([10] * 4, list(range(first, first + 4)), seed=first) for first in (1, 2, 3, 4)]
    values = [value(newest, other, solver) for other in others]
    assert values == sorted(values)
    if solver != "sliced":
        assert values == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.03)


# Sinkhorn


@COSTS
def test_sinkhorn_is_near_the_exact_cost(metric):
    x, y = points(80, 30), points(60, 30, seed=1, middle=0.3)
    assert value(x, y, "sinkhorn", metric) == pytest.approx(value(x, y, "exact", metric), rel=0.03)


def test_without_debiasing_a_set_is_not_0_from_itself():
    ot, x = wasserstein._pot(), points(60, 4)
    cost, a = cdist(x, x, "cosine"), np.full(60, 1 / 60)
    assert ot.sinkhorn2(a, a, cost, reg=0.05 * np.median(cost)) > 0.005
    assert value(x, x, "sinkhorn") == 0


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_entropic_cost_is_that_of_pot_in_the_log_domain(share):
    ot, generator = wasserstein._pot(), np.random.default_rng(0)
    x, y, a, b = points(20), points(15, seed=1), generator.random(20), generator.random(15)
    a, b, cost = a / a.sum(), b / b.sum(), cdist(x, y, "sqeuclidean")
    reg = share * float(np.median(cost))

    def by_pot(cost, a, b):
        plan = ot.bregman.sinkhorn_log(a, b, cost, reg, numItermax=2_000, stopThr=1e-7)
        return (plan * (cost + reg * np.log(np.maximum(plan, 1e-300) / np.outer(a, b)))).sum()

    assert wasserstein._entropic(cost, a, b, reg) == pytest.approx(by_pot(cost, a, b), rel=1e-4)
    own = cdist(x, x, "sqeuclidean")
    assert wasserstein._entropic_self(own, a, reg) == pytest.approx(by_pot(own, a, a), rel=1e-4)


@COSTS
@pytest.mark.parametrize("case", ["outlier", "unequal clusters", "mostly one point", "weights over 23 decades"])
def test_sinkhorn_survives(case, metric):
    x, y, a, b = points(60, 3), points(50, 3, seed=1), np.ones(60), np.ones(50)
    match case:
        case "outlier":
            x[-1] = [1e4, 0, 0]
        case "unequal clusters":
            x[:15, 0] += 100
            y[15:, 0] += 100
        case "mostly one point":
            x[6:] = y[3:] = 0
        case _:
            a, b = 10 ** np.linspace(-12, 3, 60), 10 ** np.linspace(3, -20, 50)
    exact = value(x, y, "exact", metric, a, b)
    assert value(x, y, "sinkhorn", metric, a, b) == pytest.approx(exact, rel=0.15)


def test_sinkhorn_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(wasserstein, "MOST_ROUNDS", 3)
    with pytest.raises(ArithmeticError, match="did not converge in 3 rounds over 20 x 30 instructions"):
        value(points(20), points(30, seed=1), "sinkhorn")


# sliced


@pytest.mark.parametrize("width", [1, 3, 12, 520])
@COSTS
def test_sliced_gives_the_distance_of_single_points(width, metric):
    """Up to the choice of directions: 5 % of it where the width exceeds them or the metric is not squared."""
    x, y = points(1, width, middle=2.0), points(1, width, seed=1)
    squared_in_whole_bases = width < 512 and metric != "euclidean"
    expected = cdist(x, y, metric)[0, 0]
    assert value(x, y, "sliced", metric) == pytest.approx(
        expected, rel=1e-9 if squared_in_whole_bases else 0.1, abs=1e-12
    )


def test_sliced_is_no_more_than_exact():
    x, y = points(80, 30), points(60, 30, seed=1, middle=0.3)
    for metric in METRICS:
        assert value(x, y, "sliced", metric) < value(x, y, "exact", metric)


# samples


def test_a_sample_is_near_the_whole(monkeypatch):
    monkeypatch.setattr(wasserstein, "SAMPLE", 300)
    x, y = points(900, 30), points(700, 30, seed=1, middle=0.3)
    a, b = np.random.default_rng(2).random(900), np.random.default_rng(3).random(700)
    assert value(x, y, "sampled", a=a, b=b) == pytest.approx(value(x, y, a=a, b=b), rel=0.08)


def test_instructions_of_both_sets_are_drawn_in_both(monkeypatch):
    """Half of the instructions stand in both sets, a rounding error apart: independent samples would not meet."""
    monkeypatch.setattr(wasserstein, "SAMPLE", 300)
    x = points(1_000, 30)
    y = np.vstack([x[500:].astype(np.float32), points(500, 30, seed=1)])
    exact = value(x, y)
    assert exact < 0.6 * value(x, points(1_000, 30, seed=2))
    assert value(x, y, "sampled") == pytest.approx(exact, rel=0.15)
    assert value(x, x[::-1], "sampled") == pytest.approx(0, abs=1e-9)


def test_a_heavy_instruction_keeps_its_weight_in_a_sample(monkeypatch):
    """Row 0 has half of the weight, as one row or as many equal ones."""
    monkeypatch.setattr(wasserstein, "SAMPLE", 50)
    x, weights = points(400), np.ones(400)
    weights[0] = 399
    for seed in range(5):
        kept, found = wasserstein._sample(x, weights / weights.sum(), 2.0, seed)
        assert len(kept) == 50
        assert found.sum() == pytest.approx(1)
        assert found[(kept == x[0]).all(1)] == pytest.approx(0.5, abs=0.12)
        repeated = np.vstack([x, np.tile(x[0], (398, 1))])
        again, shares = wasserstein._sample(repeated, np.full(798, 1 / 798), 2.0, seed)
        np.testing.assert_array_equal(again, kept)
        np.testing.assert_allclose(shares, found)


# the choice


def test_auto_goes_by_the_two_largest_sets():
    assert choose([10, 3_000, 200])[0] == "exact"
    assert choose([3_000, 3_000])[0] == "exact"
    assert choose([90_000, 100, 20])[0] == "exact"
    assert choose([3_001, 3_000])[0] == "sinkhorn"
    assert choose([4_000, 10, 4_000])[0] == "sinkhorn"
    assert choose([4_001, 4_000])[0] == "sampled"
    assert choose([3_001])[0] == "sinkhorn"
    assert "4,001 x 4,000" in choose([4_001, 7, 4_000])[1]


def test_a_wish_is_followed():
    assert choose([10**6], "exact") == ("exact", "exact was asked for")


def test_distance_says_what_it_did():
    found = distance(points(3), np.ones(3), points(4), np.ones(4))
    assert (found.solver, found.why) == choose([3, 4])


# mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((0, 6))}, "embeddings of the first set must be"),
        ({"y": np.zeros(6)}, "embeddings of the second set must be"),
        ({"y": points(4, 5)}, "differ in width: 6 and 5"),
        ({"x": np.full((3, 6), np.nan)}, "first set hold NaN"),
        ({"a": [1, -1, 1]}, "weights of the first set must be finite, none below 0"),
        ({"b": np.zeros(4)}, "weights of the second set .* not all 0"),
        ({"b": [1, 1, np.inf, 1]}, "weights of the second set must be finite"),
        ({"a": [1, 1]}, "3 instructions in the first set, but weights of shape"),
        ({"metric": "manhattan"}, "metric must be one of cosine, euclidean, sqeuclidean; found 'manhattan'"),
        ({"solver": "lp"}, "solver must be one of auto, exact, sinkhorn, sliced, sampled; found 'lp'"),
        ({"x": np.full((3, 6), 1e200), "metric": "euclidean"}, "too large"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        distance(**{"x": points(3), "a": np.ones(3), "y": points(4, seed=1), "b": np.ones(4)} | change)


def test_no_sets_at_all_are_refused():
    for sizes in ([], [3, 0]):
        with pytest.raises(ValueError, match="at least one instruction"):
            choose(sizes)


def test_the_room_stays_free_of_torch():
    program = "import sys; from clray.replay.wasserstein import distance; assert 'ot' not in sys.modules; "
    program += (
        "distance([[1.0, 0.0]], [1], [[0.0, 1.0]], [1]); assert 'ot' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# properties

COORDINATES = st.floats(-100, 100, allow_nan=False, width=32)


@st.composite
def sets(draw, width: int):
    """Rows of small or repeated numbers, and weights."""
    rows = draw(st.integers(1, 7))
    x = draw(arrays.arrays(np.float64, (rows, width), elements=COORDINATES))
    return x, draw(arrays.arrays(np.float64, rows, elements=st.floats(0.01, 50)))


PAIRS = st.integers(1, 3).flatmap(lambda width: st.tuples(sets(width), sets(width)))


@QUICK
@given(PAIRS, st.sampled_from(METRICS), st.sampled_from(SOLVERS))
def test_finite_not_negative_and_0_on_itself(pair, metric, solver):
    (x, a), (y, b) = pair
    scale = max(1.0, np.abs(x).max(), np.abs(y).max()) ** (2 if metric == "sqeuclidean" else 1)
    found = distance(x, a, y, b, metric, solver).value
    assert 0 <= found < np.inf
    assert distance(x, a, x, 3 * a, metric, solver).value <= 1e-6 * scale


@QUICK
@given(PAIRS, st.sampled_from(METRICS))
def test_exact_is_at_least_nearest_and_at_most_independent(pair, metric):
    """Bounds of any plan: each row goes to its nearest one, or everywhere in proportion."""
    (x, a), (y, b) = pair
    a, b = a / a.sum(), b / b.sum()
    cost = wasserstein._cost(*wasserstein._points(x, y, metric), metric)
    found = distance(x, a, y, b, metric, "exact").value
    slack = 1e-9 * max(1.0, cost.max())
    assert max(cost.min(1) @ a, cost.min(0) @ b) - slack <= found <= a @ cost @ b + slack


@QUICK
@given(PAIRS)
def test_sinkhorn_lies_within_its_entropy_of_exact(pair):
    """0 <= KL(P | ab') <= entropy of a or b, so S is within reg * log(1 / least weight) of W."""
    (x, a), (y, b) = pair
    cost = wasserstein._cost(*wasserstein._points(x, y, "sqeuclidean"), "sqeuclidean")
    least = min((a / a.sum()).min(), (b / b.sum()).min())
    bound = 0.01 * cost.max() * -np.log(least) + 1e-5 * cost.max() + 1e-9
    exact, found = (distance(x, a, y, b, "sqeuclidean", solver).value for solver in ("exact", "sinkhorn"))
    assert abs(found - exact) <= bound
