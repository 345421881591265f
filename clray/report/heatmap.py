"""The score matrix as a heat map: rows are generations, columns are tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clray.report.heat import Cell, Head, Picture, Row, picture
from clray.report.numbers import Unit, finite
from clray.report.view import Line, View


@dataclass(frozen=True)
class Change:
    """What has become of a task since it was taught."""

    text: str
    judgement: str


@dataclass(frozen=True)
class Heatmap:
    """The table of one line."""

    line: Line
    tasks: list[str]
    heads: list[Head]
    rows: list[Row]
    changes: list[Change]
    experts: list[tuple[str, str]]
    is_wide: bool
    has_gaps: bool
    picture: Picture | None


@dataclass(frozen=True)
class Legend:
    """The colour scale of one unit, from worst to best."""

    unit: Unit
    worst: str
    best: str


def heatmaps(view: View) -> list[Heatmap]:
    """The heat map of each line, on colour scales shared by all lines."""
    cells = sum(len(line.matrix["R"]) * len(line.tasks) for line in view.lines)
    return [_heatmap(view, line, cells) for line in view.lines]


def legends(view: View) -> list[Legend]:
    """The colour scale of each unit."""
    found = []
    for unit in view.units:
        low, high = view.domain(unit)
        worst, best = (high, low) if unit.lower else (low, high)
        found.append(Legend(unit, unit.show(worst) + unit.suffix, unit.show(best) + unit.suffix))
    return found


def _heatmap(view: View, line: Line, cells: int) -> Heatmap:
    columns = {task: line.column(task) for task in line.tasks}
    heads = [_head(view, line, task) for task in line.tasks]
    rows: list[Row] = [
        (index, stage, [_cell(view, line, task, index, columns[task][index]) for task in line.tasks])
        for index, stage in enumerate(line.stages[: len(line.matrix["R"])])
    ]
    return Heatmap(
        line=line,
        tasks=line.tasks,
        heads=heads,
        rows=rows,
        changes=[_change(line, task, columns[task]) for task in line.tasks],
        experts=_experts(view, line),
        is_wide=len(line.tasks) > 8,
        has_gaps=any(score is None for column in columns.values() for score in column),
        picture=picture(heads, rows, cells),
    )


def _head(view: View, line: Line, task: str) -> Head:
    unit = line.unit(task)
    name = f"{task}{' ↓' if unit.lower else ''}"
    return Head(name, f"{task} ({unit.label})", view.task_colour(task), line.learned_at(task) is None)


def _experts(view: View, line: Line) -> list[tuple[str, str]]:
    """Score and tooltip of each task's single-task expert; nothing where there are none."""
    if not any(task in view.experts for task in line.tasks):
        return []
    experts = [(task, line.unit(task), finite(view.experts.get(task))) for task in line.tasks]
    return [(unit.show(score), f"{task}, trained alone: {_value(unit, score)}") for task, unit, score in experts]


def _value(unit: Unit, score: float | None) -> str:
    return f"{unit.show(score)}{unit.suffix} {unit.label}" if score is not None else "not measured"


def _cell(view: View, line: Line, task: str, index: int, score: float | None) -> Cell:
    unit, taught = line.unit(task), line.learned_at(task)
    ahead = taught is not None and index < taught
    when = "never trained on (probe)" if taught is None else "not taught yet" if ahead else ""
    when = "just taught" if index == taught else when or f"taught at generation {taught}"
    title = f"{task} at generation {index} ({line.stages[index]}): {_value(unit, score)}, {when}"
    shade, hue = _shade(view, unit, score), "lower" if unit.lower else ""
    return Cell(unit.show(score), shade, index == taught, ahead, title, hue)


def _shade(view: View, unit: Unit, score: float | None) -> float | None:
    if score is None:
        return None
    low, high = view.domain(unit)
    if unit.metric == "perplexity" and low > 0:
        low, high, score = math.log(low), math.log(high), math.log(score)
    share = (score - low) / (high - low) if high > low else 1.0 - unit.lower
    return round(min(1.0, max(0.0, 1 - share if unit.lower else share)), 3)


def _change(line: Line, task: str, scores: list[float | None]) -> Change:
    taught, unit = line.learned_at(task), line.unit(task)
    start = 0 if taught is None else taught
    if start >= len(scores) - 1 or scores[start] is None or scores[-1] is None:
        return Change("", "even")
    difference = scores[-1] - scores[start]  # type: ignore[operator]
    return Change(unit.signed(difference), unit.better(difference))
