"""How far one set of instructions is from another: optimal transport between their embeddings (InsCL's W)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

METRICS = ("cosine", "euclidean", "sqeuclidean")
SOLVERS = ("exact", "sinkhorn", "sliced", "sampled")

EXACT_CELLS = 3_000 * 3_000
"""Largest cost matrix that `auto` solves exactly: about 3 s and 0.5 GB a pair on one core (BENCHMARKS.md)."""
SINKHORN_CELLS = 4_000 * 4_000
"""Largest one that it gives to Sinkhorn: about 4 s and 0.4 GB a pair."""
SAMPLE = 2_000
"""Instructions of each set that `sampled` keeps."""
PROJECTIONS = 512
"""Least number of directions that `sliced` averages over."""
REGULARISATION = 0.01
"""Sinkhorn's entropy term, as a share of the median cost."""
TOLERANCE = 1e-5
"""How far Sinkhorn's value may be from its limit, as a share of the entropy term: 1e-7 of the median cost."""
MOST_ROUNDS = 20_000
"""Rounds after which Sinkhorn gives up."""


@dataclass(frozen=True)
class Distance:
    """A transport cost, in units of the metric; the solver it comes from; and one sentence for the receipt."""

    value: float
    solver: str
    why: str


def choose(sizes: Sequence[int], solver: str = "auto") -> tuple[str, str]:
    """One solver for all pairs among sets of these sizes, and why.

    Values of two solvers are not comparable (sliced ones lie far lower), so whoever compares pairs asks once,
    with the sizes of all sets, and hands the answer to every `distance`. `auto` goes by the two largest sets:
    exact, then debiased Sinkhorn, then an exact plan between samples. Not `sliced`: in hundreds of dimensions it
    sees little but the difference of the means, and its shares are many times further off than those of samples.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"every set needs at least one instruction; found sizes {list(sizes)}")
    if solver in SOLVERS:
        return solver, f"{solver} was asked for"
    if solver != "auto":
        raise ValueError(f"solver must be one of auto, {', '.join(SOLVERS)}; found {solver!r}")
    n, m = sorted([*sizes, *sizes[:1]] if len(sizes) == 1 else sizes)[-2:]
    largest = f"the largest pair has {m:,} x {n:,} instructions"
    if m * n <= EXACT_CELLS:
        return "exact", f"{largest}, at most {EXACT_CELLS:,} costs: an exact plan takes seconds"
    if m * n <= SINKHORN_CELLS:
        return "sinkhorn", f"{largest}, more than the {EXACT_CELLS:,} costs of an exact plan"
    return "sampled", f"{largest}, more than the {SINKHORN_CELLS:,} costs of a plan: {SAMPLE:,} of each are compared"


def distance(
    x: ArrayLike,
    a: ArrayLike,
    y: ArrayLike,
    b: ArrayLike,
    metric: str = "cosine",
    solver: str = "auto",
    seed: int = 0,
) -> Distance:
    """Least cost of moving the weights a of the rows of x (m, d) onto the weights b of the rows of y (n, d).

    InsCL's W_{t,i} with p = 1 (arXiv 2403.11435). Weights have any positive scale. Metrics: `cosine` is 1 - cos, a zero
    row being 1 from all but another zero row; `euclidean`; `sqeuclidean`. Symmetric; all is computed in float64.

    - `exact`: the linear program, by network simplex; repeated with more iterations until it is solved.
    - `sinkhorn`: the Sinkhorn divergence OT(a, b) - (OT(a, a) + OT(b, b)) / 2 (Feydy et al., arXiv 1810.08278), in the
      log domain, with REGULARISATION times the median cost. Not below 0, and 0 for equal sets. 16 bytes a cost.
    - `sampled`: the exact cost between SAMPLE instructions of each set, drawn by weight and `seed`. A little high
      (1-5 %), alike for all pairs. What stands in both sets is drawn in both, or in neither, as far as weights allow.
    - `sliced`: the mean over PROJECTIONS or more directions of the 1-D cost, times what makes it the distance itself
      between single points: d SW_2^2 / 2 on unit rows for cosine, d SW_2^2 for sqeuclidean, SW_1 / E|direction_1|
      for euclidean. At most the exact cost, but for the choice of directions; comparable with other sliced values only.

    ValueError for what cannot be compared; ArithmeticError where a solver does not converge.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; found {metric!r}")
    x, a = _checked(x, a, "first")
    y, b = _checked(y, b, "second")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"embeddings of the two sets differ in width: {x.shape[1]} and {y.shape[1]}")
    solver, why = choose([len(x), len(y)], solver)
    x, y = _points(x, y, metric)
    match solver:
        case "exact":
            value = _exact(_cost(x, y, metric), a, b)
        case "sinkhorn":
            value = _divergence(x, a, y, b, metric)
        case "sampled":
            scale = math.sqrt(_mean_square(x) + _mean_square(y)) or 1.0
            (x, a), (y, b) = _sample(x, a, scale, seed), _sample(y, b, scale, seed)
            value = _exact(_cost(x, y, metric), a, b)
        case _:
            value = _sliced(x, a, y, b, metric, seed)
    return Distance(max(0.0, float(value)), solver, why)


def _checked(x: ArrayLike, a: ArrayLike, which: str) -> tuple[Array, Array]:
    """Rows that have a weight, and their weights with sum 1; both in float64."""
    rows, weights = np.asarray(x, dtype=np.float64), np.asarray(a, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"embeddings of the {which} set must be (instructions, width), both > 0; found {rows.shape}")
    if weights.shape != rows.shape[:1]:
        raise ValueError(f"{len(rows)} instructions in the {which} set, but weights of shape {weights.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"embeddings of the {which} set hold NaN or infinite values")
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.max() > 0:
        raise ValueError(f"weights of the {which} set must be finite, none below 0, and not all 0")
    weights = weights / weights.max()
    seen = weights > 1e-15  # what is less vanishes in the sum, and Sinkhorn would divide by it
    return rows[seen], weights[seen] / weights[seen].sum()


def _points(x: Array, y: Array, metric: str) -> tuple[Array, Array]:
    """Points between which the metric is half the squared, the plain or the squared Euclidean distance.

    For cosine: unit rows, in one dimension more, which zero rows have for themselves. Otherwise both sets are moved
    to their common middle, where rounding is least.
    """
    if metric == "cosine":
        return _unit(x), _unit(y)
    middle = (x.mean(0) + y.mean(0)) / 2
    x, y = x - middle, y - middle
    if not math.isfinite(_mean_square(x) + _mean_square(y)):
        raise ValueError("embeddings are too large: their squares are no numbers")
    return x, y


def _unit(x: Array) -> Array:
    largest = np.abs(x).max(1, keepdims=True)
    zero = largest == 0
    x = x / np.where(zero, 1.0, largest)  # so that no square is too large or too small
    return np.hstack([x / np.where(zero, 1.0, np.linalg.norm(x, axis=1, keepdims=True)), zero])


def _mean_square(x: Array) -> float:
    return float(np.einsum("ij,ij->", x, x)) / len(x)


def _cost(x: Array, y: Array, metric: str) -> Array:
    """Costs (m, n) between prepared points."""
    cost: Array = x @ y.T
    if metric == "cosine":
        np.subtract(1, cost, out=cost)
        return np.maximum(cost, 0, out=cost)
    own, other = np.einsum("ij,ij->i", x, x)[:, None], np.einsum("ij,ij->i", y, y)
    cost *= -2
    cost += own
    cost += other
    cost[cost < 1e-14 * (own.max() + other.max())] = 0.0  # rounding, of which a root would be 1e-7
    return np.sqrt(cost, out=cost) if metric == "euclidean" else cost


def _pot() -> Any:
    """POT, without the libraries that it would load only to take their arrays too."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    return ot


def _exact(cost: Array, a: Array, b: Array) -> float:
    """min <P, cost> over plans of a and b."""
    ot = _pot()
    limit = max(100_000, cost.size // 10)  # 3,000 x 3,000 takes up to 300,000; the paper's 100,000 ends 1 % too high
    for iterations in (limit, 10 * limit, 100 * limit):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same is in the log, and checked
            value, log = ot.emd2(a, b, cost, numItermax=iterations, log=True)
        if log["warning"] is None:
            return float(value)
    raise ArithmeticError(f"no exact plan of {len(a):,} x {len(b):,} instructions: {log['warning']}")


def _sample(x: Array, a: Array, scale: float, seed: int) -> tuple[Array, Array]:
    """At most SAMPLE distinct rows, drawn without replacement by weight, and weights that stand for all.

    Bottom-k sampling with exponential ranks (Cohen and Kaplan, VLDB 2008). A row's lot is a function of what is in it,
    the digits after the first three of its projection, so that equal rows of two sets are drawn alike, even where
    their last bits differ.
    """
    if len(x) <= SAMPLE:
        return x, a
    direction = np.random.default_rng(seed).standard_normal(x.shape[1])
    digits = np.round(x @ direction * (1_000 / scale) % 1, 10)
    lots, first, row_of = np.unique(digits, return_index=True, return_inverse=True)
    x, a = x[first], np.bincount(row_of, a).astype(np.float64)
    if len(x) <= SAMPLE:
        return x, a
    ranks = -np.log1p(-np.minimum(lots, 1 - 1e-10)) / a
    order = np.argsort(ranks, kind="stable")
    kept, limit = order[:SAMPLE], ranks[order[SAMPLE]]
    stands_for = a[kept] / -np.expm1(-a[kept] * limit)
    return x[kept], stands_for / stands_for.sum()


def _sliced(x: Array, a: Array, y: Array, b: Array, metric: str, seed: int) -> float:
    """Mean cost along random directions, times d or over E|direction_1|, so that it is the distance of single points.

    Directions are orthonormal as far as the width goes: with whole bases the squared distance between the means of
    two sets comes out exactly.
    """
    ot = _pot()
    width, generator = x.shape[1], np.random.default_rng(seed)
    order = 1 if metric == "euclidean" else 2
    costs: list[float] = []
    while len(costs) < PROJECTIONS:
        basis = np.linalg.qr(generator.standard_normal((width, min(width, PROJECTIONS))))[0]
        for start in range(0, basis.shape[1], 64):  # POT holds ten numbers a row and direction
            along = basis[:, start : start + 64]
            _, log = ot.sliced_wasserstein_distance(x, y, a, b, p=order, projections=along, log=True)
            costs.extend(log["projected_emds"])
    match metric:
        case "cosine":
            factor = width / 2
        case "sqeuclidean":
            factor = float(width)
        case _:  # E|direction_1| on the unit sphere is gamma(d / 2) / (sqrt(pi) gamma((d + 1) / 2))
            factor = math.sqrt(math.pi) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))
    return float(factor * np.mean(costs))


def _divergence(x: Array, a: Array, y: Array, b: Array, metric: str) -> float:
    """OT(a, b) - (OT(a, a) + OT(b, b)) / 2 with the entropy term of the pair."""
    cost = _cost(x, y, metric)
    reg = max(REGULARISATION * _usual(cost), 1e-4 * float(cost.max()))  # less drowns in rounding, and takes for ever
    if reg == 0:  # one point in both sets
        return 0.0
    value = _entropic(cost, a, b, reg)
    del cost
    return value - sum(_entropic_self(_cost(z, z, metric), weights, reg) for z, weights in ((x, a), (y, b))) / 2


def _usual(cost: Array) -> float:
    """Median of the costs above 0, of a million at most."""
    some = cost[tuple(slice(None, None, max(1, size // 1_000)) for size in cost.shape)]
    return float(np.median(some[some > 0])) if some.any() else float(cost.max())


def _entropic(cost: Array, a: Array, b: Array, reg: float) -> float:
    """min <P, cost> + reg KL(P | ab') over plans P of a and b, by Sinkhorn's algorithm with annealing."""
    kernel = np.empty_like(cost)
    g, level = np.zeros(len(b)), max(float(cost.max()), reg)
    while True:
        level = max(level / 4, reg)
        g, value = _scale(cost, kernel, a, b, level, g)
        if level == reg:
            return value


def _entropic_self(cost: Array, a: Array, reg: float) -> float:
    """The same for one set with itself: one potential, and the averaged step of Feydy et al., quick at any level."""
    kernel, f = np.empty_like(cost), -reg * np.log(a) / 2
    np.subtract(f[:, None], cost, out=kernel)
    np.add(kernel, f, out=kernel)
    np.exp(np.divide(kernel, reg, out=kernel), out=kernel)
    u = np.zeros_like(f)
    for _ in range(MOST_ROUNDS):
        rows = np.log(kernel @ (np.exp(u) * a))
        mass = np.exp(u + rows)
        if _excess(mass, a) < TOLERANCE:
            return float(2 * (f + reg * u) @ a - reg * (mass @ a - 1))
        u = (u - rows) / 2
    raise ArithmeticError(_unsolved(a, a))


def _scale(cost: Array, kernel: Array, a: Array, b: Array, reg: float, g: Array) -> tuple[Array, float]:
    """Potential of b, from a start, and the dual value.

    The scalings of the kernel go into the potentials before they leave the range of floats (Schmitzer,
    arXiv 1610.06519): the log domain at the price of products of matrix and vector. Steps are lengthened by the rate at
    which the error falls (Lehmann et al., arXiv 2012.12562), and are plain again where that does not help. A plain
    round adds reg * error to the dual value; gains fall at least with the square of the rounds, so that what is still
    to come is about rounds times the last one. Misplaced mass would be no measure: it can take for ever to find its
    way between far clusters, where it hardly matters.
    """
    f, g = _absorb(cost, kernel, a, b, reg, g)
    u, v, columns = np.zeros_like(f), np.zeros_like(g), np.zeros_like(g)  # logarithms
    step, before, least = 1.0, math.inf, math.inf
    for round_ in range(MOST_ROUNDS):
        rows = np.log(kernel @ (np.exp(v) * b))
        if round_ % 10 == 0:
            mass = np.exp(u + rows)
            error = _excess(mass, a) + _excess(np.exp(v + columns), b)
            if max(10, round_) * error < TOLERANCE:
                return g + reg * v, float((f + reg * u) @ a + (g + reg * v) @ b - reg * (mass @ a - 1))
            if step > 1 and error > 100 * least:
                step = 1.0
            elif step == 1 and round_ % 50 == 40:
                rate = min(1.0, error / before) ** 0.05  # of the potentials, a round: the error is their square
                step = min(1.8, 2 / (1 + math.sqrt(1 - rate)))
            before, least = error, min(error, least)
        u = u - step * (u + rows)
        columns = np.log((np.exp(u) * a) @ kernel)
        v = v - step * (v + columns)
        if max(np.abs(u).max(), np.abs(v).max()) > 50:
            f, g = _absorb(cost, kernel, a, b, reg, g + reg * v)
            u, v, columns, step = np.zeros_like(f), np.zeros_like(g), np.zeros_like(g), 1.0
    raise ArithmeticError(_unsolved(a, b))


def _excess(mass: Array, a: Array) -> float:
    """KL of the wanted weights a against a * mass, what a plan has in their places."""
    return float((mass - 1 - np.log(mass)) @ a)


def _absorb(cost: Array, kernel: Array, a: Array, b: Array, reg: float, g: Array) -> tuple[Array, Array]:
    """Potentials after one round in the log domain, and the kernel that holds them, exp((f + g - cost) / reg)."""
    np.divide(np.subtract(g, cost, out=kernel), reg, out=kernel)
    most = kernel.max(1)
    np.exp(np.subtract(kernel, most[:, None], out=kernel), out=kernel)
    f = -reg * (most + np.log(kernel @ b))
    np.divide(np.subtract(f[:, None], cost, out=kernel), reg, out=kernel)
    most = kernel.max(0)
    np.exp(np.subtract(kernel, most, out=kernel), out=kernel)
    columns = a @ kernel
    kernel /= columns
    return f, -reg * (most + np.log(columns))


def _unsolved(a: Array, b: Array) -> str:
    return (
        f"Sinkhorn's algorithm did not converge in {MOST_ROUNDS:,} rounds over {len(a):,} x {len(b):,} instructions; "
        "take solver exact or sampled"
    )
