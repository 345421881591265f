"""Groups of probes: what each stage, and each kind of stage, did to each kind of ability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.metrics import delta_name
from clray.evaluation.probes import Effect, by_kind, effects, with_row
from clray.report.heat import Cell, Head, Picture, Row, picture
from clray.report.numbers import NOTHING, Unit
from clray.report.view import Line, View

TRACE = {"general_ability_delta": "General Ability Delta", "instruction_following_delta": "Instruction Following Delta"}


@dataclass(frozen=True)
class Change:
    """A delta against the base model, and the class of its colour."""

    text: str
    judgement: str
    title: str


@dataclass(frozen=True)
class ProbeMap:
    """A line's map of steps: a row for each stage (or kind of stage), a column for each group and metric.

    `deltas` stand below it: the last generation against the base model; none below a map of kinds.
    """

    line: Line
    heads: list[Head]
    rows: list[Row]
    deltas: list[Change]
    is_wide: bool
    picture: Picture | None


@dataclass(frozen=True)
class Probes:
    """The maps by stage and by kind of all lines, on one scale for each unit: the step at which colours are full."""

    stages: list[ProbeMap]
    kinds: list[ProbeMap]
    limits: list[tuple[Unit, str]]
    has_rejected: bool


@dataclass(frozen=True)
class _Row:
    """A generation with its effects by column: its kind, and whether it was rejected."""

    index: int
    stage: str
    kind: str
    cells: dict[tuple[str, str], tuple[float | None, float | None]]
    rejected: bool


def probes(view: View) -> Probes | None:
    """What all lines did to their groups of probes; None where no task is of a group."""
    found = [(line, effects(_matrix(line))) for line in view.lines]
    if not any(some for _, some in found) or all(len(line.stages) < 2 for line in view.lines):
        return None
    rows = {line.number: _rows(line, some) for line, some in found}
    steps = [(metric, step) for some in rows.values() for row in some for (_, metric), (step, _) in row.cells.items()]
    limits = {
        unit: max((abs(step) for metric, step in steps if metric == unit.metric and step is not None), default=0) or 1.0
        for unit in dict.fromkeys(Unit(effect.metric) for _, some in found for effect in some)
    }
    cells = sum(len(rows[line.number]) * len(some) for line, some in found)
    return Probes(
        stages=[_stage_map(line, some, rows[line.number], limits, cells) for line, some in found if some],
        kinds=[_kind_map(line, some, limits) for line, some in found if some],
        limits=[(unit, unit.show(limit) + (" pt" if unit.suffix else "")) for unit, limit in limits.items()],
        has_rejected=any(row.rejected for some in rows.values() for row in some),
    )


def _matrix(line: Line) -> ScoreMatrix:
    return ScoreMatrix.from_dict(line.matrix)


def _kinds(line: Line) -> list[str]:
    return [g.get("stage", {}).get("kind", "") if g["index"] else "" for g in line.generations]


def _rows(line: Line, found: Sequence[Effect]) -> list[_Row]:
    """A row for each trained generation, those that were rejected before the one that took their place."""
    kinds, rows = _kinds(line), []
    for index in range(1, len(line.stages)):
        cells = {(e.group, e.metric): (e.steps[index], e.deltas[index]) for e in found}
        rows.append(_Row(index, line.stages[index], kinds[index], cells, False))
    for tried in line.rejected:
        index = tried["index"]
        matrix = with_row(_matrix(line), index, tried["key"], tried["stage_name"], tried["scores"])
        cells = {(e.group, e.metric): (e.steps[index], e.deltas[index]) for e in effects(matrix)}
        rows.append(_Row(index, tried["stage_name"], tried["stage"].get("kind", ""), cells, True))
    return sorted(rows, key=lambda row: (row.index, not row.rejected))


def _heads(found: Sequence[Effect]) -> list[Head]:
    heads = []
    for effect in found:
        unit, name = Unit(effect.metric), delta_name(effect.group)
        alone = sum(other.group == effect.group for other in found) == 1
        title = f"{TRACE.get(name, name.replace('_', ' '))} ({unit.label}): {', '.join(effect.tasks)}"
        heads.append(Head(effect.group if alone else f"{effect.group}, {unit.label}", title, "var(--ink-3)"))
    return heads


def _stage_map(
    line: Line, found: list[Effect], rows: list[_Row], limits: dict[Unit, float], cells_in_section: int
) -> ProbeMap:
    heads = _heads(found)
    shown: list[Row] = [
        (
            row.index,
            f"{row.stage} (rejected)" if row.rejected else row.stage,
            [_cell(effect, row, limits[Unit(effect.metric)]) for effect in found],
        )
        for row in rows
    ]
    deltas = [_delta(effect) for effect in found]
    return ProbeMap(line, heads, shown, deltas, len(found) > 8, picture(heads, shown, cells_in_section))


def _kind_map(line: Line, found: list[Effect], limits: dict[Unit, float]) -> ProbeMap:
    kinds = _kinds(line)
    means = [by_kind(effect, kinds) for effect in found]
    rows: list[Row] = [
        (
            sum(one == kind for one in kinds),
            kind,
            [
                _shaded(
                    Unit(e.metric), mean.get(kind), f"{kind} stages, mean step of {e.group}", limits[Unit(e.metric)]
                )
                for e, mean in zip(found, means, strict=True)
            ],
        )
        for kind in dict.fromkeys(kinds[1:])
    ]
    return ProbeMap(line, _heads(found), rows, [], len(found) > 8, None)


def _cell(effect: Effect, row: _Row, limit: float) -> Cell:
    unit = Unit(effect.metric)
    step, delta = row.cells.get((effect.group, effect.metric), (None, None))
    title = f"{effect.group} at generation {row.index} ({row.stage}{', rejected' if row.rejected else ''})"
    if delta is not None:
        title += f", {unit.signed(delta)} against the base model"
    return _shaded(unit, step, title, limit, ahead=row.rejected)


def _shaded(unit: Unit, step: float | None, title: str, limit: float, ahead: bool = False) -> Cell:
    if step is None:
        return Cell(NOTHING, None, False, False, f"{title}: nothing measured but what it teaches itself")
    shade = round(min(1.0, abs(step) / limit), 3)
    text = unit.signed(step)
    return Cell(text, shade, False, ahead, f"{title}: {text} {unit.label}", "worse" if step < 0 else "")


def _delta(effect: Effect) -> Change:
    unit, delta = Unit(effect.metric), effect.deltas[-1]
    judgement = "even" if delta is None or not unit.rounded(delta) else "good" if delta > 0 else "bad"
    return Change(unit.signed(delta), judgement, f"{effect.group}: the last generation against the base model")
