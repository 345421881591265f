"""Two generations on the same examples: the difference of their scores, with a paired bootstrap interval.

Pure functions on the results of single examples, as `outputs/<key>/<task>.json` holds them. Both generations answered
the same examples in the same order, so examples are drawn again together (paired bootstrap, Efron & Tibshirani 1993;
percentile interval). Every score is a ratio of sums, and so recomputed whole in each draw: a mean over examples, or
nats over bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.evaluation.outcomes import EXPONENTIAL
from clray.spec.task import LOWER_IS_BETTER

DRAWS = 2000
LEVEL = 0.95
AT_ONCE = 1 << 22
"""Numbers drawn together: bounds the memory."""

Results = Sequence[dict[str, Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the score went from one generation to another: after - before, and its 95 % interval.

    `clear` says that the interval leaves out 0; `better` that the change is for the better, whatever its unit.
    """

    metric: str
    before: float
    after: float
    low: float
    high: float
    n: int

    @property
    def change(self) -> float:
        """after - before."""
        return self.after - self.before

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def better(self) -> bool:
        """Whether it changed for the better."""
        return (self.change < 0) if self.metric in LOWER_IS_BETTER else (self.change > 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {name: getattr(self, name) for name in ("metric", "before", "after", "change", "low", "high", "n")}
        return {**plain, "clear": self.clear}


def difference(metric: str, before: Results, after: Results, seed: int = 0) -> Difference:
    """The difference of the two generations in `metric`; ValueError where their examples are not the same number."""
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} results are not of the same examples")
    (top_b, low_b), (top_a, low_a) = _parts(metric, before), _parts(metric, after)
    shape, n = _SHAPES.get(metric, _identity), len(before)
    generator = np.random.default_rng(seed)
    changes = []
    for size in _chunks(n):
        drawn = generator.integers(0, n, (size, n))
        changes.append(
            shape(top_a[drawn].sum(1) / low_a[drawn].sum(1)) - shape(top_b[drawn].sum(1) / low_b[drawn].sum(1))
        )
    low, high = np.quantile(np.concatenate(changes), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(
        metric=metric,
        before=float(shape(top_b.sum() / low_b.sum())),
        after=float(shape(top_a.sum() / low_a.sum())),
        low=float(low),
        high=float(high),
        n=n,
    )


def _chunks(n: int) -> list[int]:
    """Numbers of draws that are made together."""
    most = max(1, min(DRAWS, AT_ONCE // n))
    return [min(most, DRAWS - start) for start in range(0, DRAWS, most)]


def _parts(metric: str, results: Results) -> tuple[Floats, Floats]:
    """The two columns whose sums' ratio is the score (before `_SHAPES`)."""
    if "values" in results[0]:
        pairs = np.array([r["values"][metric] for r in results], dtype=np.float64)
        return pairs[:, 0], pairs[:, 1]
    if metric in ("bits_per_byte", "perplexity"):
        nll = np.array([r["nll"] for r in results], dtype=np.float64)
        size = np.array([r["bytes" if metric == "bits_per_byte" else "tokens"] for r in results], dtype=np.float64)
        return (nll / math.log(2) if metric == "bits_per_byte" else nll), size
    name = "correct" if metric == "accuracy" else metric
    return np.array([float(r[name]) for r in results]), np.ones(len(results))


def _identity(value: Any) -> Any:
    return value


_SHAPES: dict[str, Callable[[Any], Any]] = dict.fromkeys(EXPONENTIAL, np.exp)
