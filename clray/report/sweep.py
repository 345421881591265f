"""The page of a sweep: its trials, parallel coordinates, what trades off, which parameter matters, the best spec."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from clray.report.figures import axis_number
from clray.report.numbers import NOTHING, duration, finite, short_count
from clray.report.page import read, templates
from clray.report.scale import Scale, path, ticks

WIDTH, TOP, BOTTOM, HEIGHT = 1060, 46, 300, 322
LEFT, RIGHT = 70, 990
MOST_LEVELS = 4
"""Groups into which a range of values is cut to see how much of the objective it explains."""


@dataclass(frozen=True)
class Axis:
    """One axis of the parallel coordinates: its place, and what stands beside it."""

    name: str
    x: float
    marks: list[tuple[float, str]]


@dataclass(frozen=True)
class Trace:
    """One trial as a path over all axes."""

    path: str
    title: str
    is_best: bool
    strength: float


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates of the complete trials."""

    axes: list[Axis]
    traces: list[Trace]
    width: int = WIDTH
    height: int = HEIGHT
    top: int = TOP
    bottom: int = BOTTOM


@dataclass(frozen=True)
class Spot:
    """One trial in a trade-off."""

    x: float
    y: float
    title: str
    is_front: bool
    is_best: bool


@dataclass(frozen=True)
class TradeOff:
    """Two numbers of the complete trials, and the front that nothing beats in both."""

    x_name: str
    y_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    spots: list[Spot]
    front: str
    left: int = 46
    right: int = 330
    top: int = 14
    bottom: int = 210


@dataclass(frozen=True)
class Importance:
    """How much of the first objective's variance over the complete trials a field explains alone; 0 to 1."""

    field: str
    share: float
    means: list[tuple[str, str, int]]


def render(result: dict[str, Any]) -> str:
    """The page as HTML text; `result` as `clray.search.result.SweepResult.to_dict` gives it."""
    whole = complete(result)
    return (
        templates()
        .get_template("sweep.html")
        .render(
            stream=result["sweep"],
            created=result["created"],
            seconds=duration(result["seconds"] or None),
            style=Markup(read("style.css")),
            result=result,
            heads=heads(result),
            rows=[row(result, trial) for trial in result["trials"]],
            parallel=parallel(result, whole),
            trade_offs=trade_offs(result, whole),
            importances=importances(result, whole),
        )
    )


def complete(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials that ran to their end in full, the best first."""
    return [trial for trial in result["trials"] if trial["values"] is not None]


def heads(result: dict[str, Any]) -> list[str]:
    """Heads of the table of trials."""
    objectives = [objective["text"] for objective in result["sweep"]["objectives"]]
    fields = [field.rpartition(".")[2] for field in result["fields"]]
    limits = ["constraints"] if result["sweep"]["constraints"] else []
    return ["trial", *fields, "stages", *objectives, *limits, "tokens", "device-s", "state"]


def row(result: dict[str, Any], trial: dict[str, Any]) -> list[str]:
    """One row of the table of trials, for the page and the terminal."""
    values = [f"{value:.4g}" for value in trial["values"] or ()] or [NOTHING] * len(result["sweep"]["objectives"])
    broken = [f"broken by {excess:.3g}" for excess in trial["excesses"] or () if excess > 0]
    limits = [", ".join(broken) or (NOTHING if trial["kept"] is None else "kept")]
    share = "" if trial["share"] == 1 else f" at {trial['share']:g}"
    state = "best" if trial["number"] == result["best"] else trial["status"]
    return [
        str(trial["number"]),
        *(label(trial["settings"].get(field)) for field in result["fields"]),
        f"{trial['stage']}/{trial['of']}" if trial["of"] else NOTHING,
        *values,
        *(limits if result["sweep"]["constraints"] else ()),
        short_count(trial["costs"].get("tokens")),
        short_count(trial["costs"].get("device_seconds")),
        f"{state}{share}",
    ]


def label(value: Any) -> str:
    """A setting, short."""
    if isinstance(value, dict):
        return " ".join(str(part) if name == "kind" else f"{name} {label(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else json.dumps(value)


def number_of(value: Any) -> float | None:
    """A setting as a number; None where it is none."""
    return finite(value) if isinstance(value, int | float) else None


def parallel(result: dict[str, Any], whole: Sequence[dict[str, Any]]) -> Parallel | None:
    """The parallel coordinates; None without a complete trial."""
    if not whole:
        return None
    columns = [(field.rpartition(".")[2], [trial["settings"][field] for trial in whole]) for field in result["fields"]]
    columns += [(o["text"], [t["values"][n] for t in whole]) for n, o in enumerate(result["sweep"]["objectives"])]
    gap = (RIGHT - LEFT) / max(1, len(columns) - 1)
    heights, axes = [], []
    for number, (name, values) in enumerate(columns):
        places, marks = _axis(values)
        heights.append(places)
        axes.append(Axis(name, round(LEFT + number * gap, 1), marks))
    traces = [
        Trace(
            path=path((axis.x, places[number]) for axis, places in zip(axes, heights, strict=True)),
            title=f"trial {trial['number']}: {trial['described']} → {_values(trial)}",
            is_best=trial["number"] == result["best"],
            strength=round(1 - 0.85 * number / len(whole), 2),
        )
        for number, trial in enumerate(whole)
    ]
    return Parallel(axes, traces[::-1])


def trade_offs(result: dict[str, Any], whole: Sequence[dict[str, Any]]) -> list[TradeOff]:
    """Average performance against forgetting and against cost, in each unit of score, and the first two objectives
    where they are others than these."""
    found = []
    for unit in dict.fromkeys(unit for trial in whole for unit in trial["metrics"]):
        level = [trial["metrics"].get(unit, {}).get("average_performance") for trial in whole]
        other = [trial["metrics"].get(unit, {}).get("forgetting_max") for trial in whole]
        lower = unit in ("bits_per_byte", "perplexity")
        name = f"average performance, {unit.replace('_', ' ')}"
        found.append(_trade_off(result, whole, ("forgetting (max)", other, True), (name, level, lower)))
        cost = [trial["costs"].get("device_seconds") for trial in whole]
        found.append(_trade_off(result, whole, ("device-seconds", cost, True), (name, level, lower)))
    drawn = [one for one in found if one is not None]
    two = result["sweep"]["objectives"][:2]
    if len(two) == 2:
        x, y = (
            (objective["text"], [trial["values"][n] for trial in whole], not objective["maximise"])
            for n, objective in enumerate(two)
        )
        wanted = _trade_off(result, whole, y, x)
        if wanted is not None and _drawing(wanted) not in map(_drawing, drawn):
            drawn.append(wanted)
    return drawn


def _drawing(one: TradeOff) -> tuple[Any, ...]:
    """All of it but the names."""
    return one.x_ticks, one.y_ticks, [(spot.x, spot.y) for spot in one.spots]


def importances(result: dict[str, Any], whole: Sequence[dict[str, Any]]) -> list[Importance]:
    """The importance of each field, the largest first; none for fewer than three complete trials."""
    if len(whole) < 3:
        return []
    scores = [trial["values"][0] for trial in whole]
    found = []
    for field in result["fields"]:
        groups = grouped([trial["settings"][field] for trial in whole], scores)
        means = [(name, f"{fmean(values):.4g}", len(values)) for name, values in groups]
        found.append(Importance(field, explained([values for _, values in groups]), means))
    return sorted(found, key=lambda one: -one.share)


def explained(groups: Sequence[Sequence[float]]) -> float:
    """The correlation ratio eta squared: variance between the groups' means as a share of all variance.

    eta^2 = sum_g n_g (m_g - m)^2 / sum_i (x_i - m)^2 (Fisher 1925). What fields do only together it does not see.
    """
    values = [value for group in groups for value in group]
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups if group)
    return between / total if total > 1e-18 else 0.0


def grouped(settings: Sequence[Any], scores: Sequence[float]) -> list[tuple[str, list[float]]]:
    """The scores by value of the setting; more than a few numbers are cut into MOST_LEVELS groups of like size."""
    values = list(dict.fromkeys(label(value) for value in settings))
    if len(values) > 2 * MOST_LEVELS and all(number_of(value) is not None for value in settings):
        order = sorted(range(len(settings)), key=lambda n: settings[n])
        size = math.ceil(len(order) / MOST_LEVELS)
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        return [
            (f"{label(settings[piece[0]])} to {label(settings[piece[-1]])}", [scores[n] for n in piece])
            for piece in pieces
        ]
    return [(value, [s for v, s in zip(settings, scores, strict=True) if label(v) == value]) for value in values]


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Height of each value on its axis, and the marks beside it: few values evenly, many numbers to scale."""
    different = list(dict.fromkeys(label(value) for value in values))
    numbers = [number for value in values if (number := number_of(value)) is not None]
    if len(numbers) == len(values):
        different = [label(value) for value in sorted(set(numbers))]
    if len(different) <= 2 * MOST_LEVELS or len(numbers) < len(values):
        even = Scale(0, max(1, len(different) - 1), BOTTOM, TOP)
        labels = [label(float(v)) if len(numbers) == len(values) else label(v) for v in values]
        return [even(different.index(name)) for name in labels], [(even(n), name) for n, name in enumerate(different)]
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low > 30
    turned = [math.log(number) if log else number for number in numbers]
    scale = Scale(min(turned), max(turned), BOTTOM, TOP)
    return [scale(number) for number in turned], [(BOTTOM, label(low)), (TOP, label(high))]


def _trade_off(
    result: dict[str, Any],
    whole: Sequence[dict[str, Any]],
    x: tuple[str, Sequence[float | None], bool],
    y: tuple[str, Sequence[float | None], bool],
) -> TradeOff | None:
    """The two numbers (name, values, whether less is better) beside each other; None where fewer than two have both."""
    points = [(a, b, trial) for a, b, trial in zip(x[1], y[1], whole, strict=True) if a is not None and b is not None]
    if len(points) < 2:
        return None
    frame = TradeOff(x[0], y[0], [], [], [], "")
    xs, ys = [a for a, _, _ in points], [b for _, b, _ in points]
    x_marks, y_marks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    across = Scale(x_marks[0], x_marks[-1], frame.left, frame.right)
    up = Scale(y_marks[0], y_marks[-1], frame.bottom, frame.top)
    goods = [(-a if x[2] else a, -b if y[2] else b) for a, b, _ in points]
    front = [n for n, one in enumerate(goods) if not any(_beats(other, one) for other in goods)]
    spots = [
        Spot(
            across(a),
            up(b),
            f"trial {trial['number']}: {trial['described']} → {y[0]} {b:.4g}, {x[0]} {a:.4g}",
            n in front,
            trial["number"] == result["best"],
        )
        for n, (a, b, trial) in enumerate(points)
    ]
    return TradeOff(
        x[0],
        y[0],
        [(across(v), axis_number(v)) for v in x_marks],
        [(up(v), axis_number(v)) for v in y_marks],
        spots,
        path((spots[n].x, spots[n].y) for n in sorted(front, key=lambda n: spots[n].x)),
    )


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _values(trial: dict[str, Any]) -> str:
    return ", ".join(f"{value:.4g}" for value in trial["values"])
