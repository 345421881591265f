"""What each stage did to each group of probes: which kind of stage hurt which kind of ability. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from clray.evaluation.matrix import Cell, ScoreMatrix
from clray.evaluation.metrics import Matrix, Undefined, group_delta, oriented


@dataclass(frozen=True)
class Effect:
    """A group of tasks of one metric: for each row of the matrix its delta against the base model (TRACE's, over all
    tasks of the group), and its step against the row before, over the tasks that the row's stage does not teach itself.

    Above 0 is better, for every metric; None where a cell was not measured, or no task is left.
    """

    group: str
    metric: str
    tasks: tuple[str, ...]
    deltas: tuple[Cell, ...]
    steps: tuple[Cell, ...]


def effects(matrix: ScoreMatrix) -> list[Effect]:
    """The effects of all rows on each group, one for each metric in it."""
    found = []
    for group in matrix.columns_of:
        for metric in matrix.units:
            part = matrix.of(metric)
            columns = part.columns_of.get(group)
            if columns:
                found.append(_effect(part, group, metric, columns))
    return found


def with_row(matrix: ScoreMatrix, row: int, key: str, stage: str, scores: dict[str, Cell]) -> ScoreMatrix:
    """The matrix up to the row before, and on it another generation: one that was rejected at that place."""
    before = matrix.upto(row - 1)
    return ScoreMatrix(
        tasks=matrix.tasks,
        metrics=matrix.metrics,
        learned_at=matrix.learned_at,
        generations=(*before.generations, key),
        stages=(*before.stages, stage),
        R=(*before.R, tuple(scores.get(task) for task in matrix.tasks)),
        groups=matrix.groups,
    )


def by_kind(effect: Effect, kinds: Sequence[str]) -> dict[str, float]:
    """The mean step of the stages of each kind; `kinds` are those of all rows, of which row 0 counts for nothing."""
    steps: dict[str, list[float]] = {}
    for kind, step in list(zip(kinds, effect.steps, strict=True))[1:]:
        if step is not None:
            steps.setdefault(kind, []).append(step)
    return {kind: fmean(values) for kind, values in steps.items()}


def _effect(part: ScoreMatrix, group: str, metric: str, columns: list[int]) -> Effect:
    turned, learned = oriented(part.R, part.lower_is_better), part.learned_rows
    rows = range(len(turned))
    others = [[i for i in columns if learned[i] != row] for row in rows]
    return Effect(
        group=group,
        metric=metric,
        tasks=tuple(part.tasks[i] for i in columns),
        deltas=tuple(_change([turned[0], turned[row]], columns) for row in rows),
        steps=tuple(_change(turned[row - 1 : row + 1], others[row]) if row else None for row in rows),
    )


def _change(pair: Matrix, columns: Sequence[int]) -> Cell:
    """The mean change of the columns from the first row to the second; None where that is not defined."""
    try:
        return group_delta(pair, columns)
    except Undefined:
        return None
