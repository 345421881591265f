"""Axes and paths of small charts, in the coordinates of an SVG view box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps values from `low`..`high` to pixels `start`..`end`, and clamps what lies outside."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        span = self.high - self.low
        share = min(1.0, max(0.0, (value - self.low) / span)) if span else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that enclose `low`..`high`: steps of 1, 2, 2.5 or 5 times 10^n."""
    span = high - low if high - low > 1e-6 else max(abs(high), 1.0)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def whole_ticks(last: int, count: int) -> list[int]:
    """Whole numbers from 0 to `last` at even steps, at most about `count`."""
    step = max(1, math.ceil(last / count))
    return list(range(0, last + 1, step))


def path(points: Iterable[Point | None]) -> str:
    """SVG path through the points; None breaks it."""
    pieces, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{point[0]:g} {point[1]:g}")
        pen = "L"
    return "".join(pieces)


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most about `limit` points: means of even buckets, first and last point kept."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    buckets = [points[n : n + size] for n in range(0, len(points), size)]
    means = [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in buckets]
    return [points[0], *means[1:-1], points[-1]]


def smooth(points: Sequence[Point], share: float = 0.06) -> list[Point]:
    """Centred moving mean over about `share` of the points; short windows at the start keep its height."""
    totals = [0.0, *accumulate(y for _, y in points)]
    reach, last = max(1, round(len(points) * share / 2)), len(points) - 1
    smoothed = []
    for n, (x, _) in enumerate(points):
        back, ahead = min(reach, n), min(reach, n, last - n)
        smoothed.append((x, (totals[n + ahead + 1] - totals[n - back]) / (back + ahead + 1)))
    return smoothed


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`heights` moved as little as needed to stand `gap` apart within `low`..`high`, in the order given."""
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    placed = [0.0] * len(heights)
    edge = low - gap
    for n in order:
        edge = placed[n] = max(heights[n], edge + gap)
    edge = high + gap
    for n in reversed(order):
        edge = placed[n] = min(placed[n], edge - gap)
    return placed
