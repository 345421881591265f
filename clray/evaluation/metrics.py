"""The metrics of continual learning: pure functions of the score matrix, each variant under its own name.

Every function takes `R` (rows of scores, row 0 the base model, one column a task, None where not measured)
and `learned_at` (for each column the row of the generation that teaches it, None for a probe). A row may
teach several tasks or none; a task whose row is beyond the last is not taught yet. "The last generation" is
the last row.

Higher is better throughout: turn columns where lower is better (perplexity, bits per byte) with `oriented`
first. Papers differ silently in the denominator, so it stands in the name: T counts the tasks taught so far,
T-1 those taught before the last generation. Undefined (a ValueError) is raised where a metric has no task to
speak of, or needs a cell that was not measured, and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean

from clray.evaluation.matrix import Cell, ScoreMatrix

Matrix = Sequence[Sequence[Cell]]
LearnedAt = Sequence[int | None]


class Undefined(ValueError):
    """A metric that this matrix does not define: no task to average over, or a cell not measured."""


def oriented(R: Matrix, lower: Sequence[bool]) -> list[list[Cell]]:
    """The matrix with the sign of each `lower` (is better) column flipped: higher is better everywhere."""
    return [[-x if flip and x is not None else x for x, flip in zip(row, lower, strict=True)] for row in R]


def average_performance(R: Matrix, learned_at: LearnedAt) -> float:
    """AP, the mean score of the last generation over the tasks taught so far.

    AP = 1/T sum_i R[T][i] (SAPT's score.py; O-LoRA calls it AA).
    """
    return overall_performance(R, learned_at)


def overall_performance(R: Matrix, learned_at: LearnedAt, t: int | None = None) -> float:
    """OP_t, the mean score of generation t (default: the last) over the tasks taught up to it.

    OP_t = 1/t sum_{i<=t} R[t][i] (TRACE, arXiv 2310.06762).
    """
    row = _last(R) if t is None else t
    return _mean((_cell(R, row, i) for i, _ in _taught(learned_at, row)), f"taught up to generation {row}")


def forgetting_max(R: Matrix, learned_at: LearnedAt) -> float:
    """F.Ra, how far each task has fallen from the best score it had: positive is forgetting.

    F.Ra = 1/(T-1) sum_{i<T} (max_{1<=k<T} R[k][i] - R[T][i]) (Chaudhry et al. 2018; SAPT's score.py). The
    best is taken over the trained generations before the last. Cells before the task's own stage may be
    missing (papers keep the lower triangle only) and are left out of the maximum; from its stage on every
    cell is needed.
    """
    last = _last(R)

    def best(i: int, learned: int) -> float:
        early = [x for k in range(1, learned) if (x := R[k][i]) is not None]
        return max([*early, *(_cell(R, k, i) for k in range(learned, last))])

    return _mean((best(i, k) - _cell(R, last, i) for i, k in _earlier(learned_at, last)), _BEFORE)


def forgetting_first(R: Matrix, learned_at: LearnedAt) -> float:
    """How far each task has fallen from the score right after its stage: positive is forgetting.

    1/(T-1) sum_{i<T} (R[i][i] - R[T][i]), that is -bwt.
    """
    return -bwt(R, learned_at)


def bwt(R: Matrix, learned_at: LearnedAt) -> float:
    """BWT, what later stages did to earlier tasks: negative is forgetting.

    1/(T-1) sum_{i<T} (R[T][i] - R[i][i]) (GEM, Lopez-Paz & Ranzato 2017).
    """
    last = _last(R)
    return _mean((_cell(R, last, i) - _cell(R, k, i) for i, k in _earlier(learned_at, last)), _BEFORE)


def bwt_over_t(R: Matrix, learned_at: LearnedAt, t: int | None = None) -> float:
    """BWT of generation t (default: the last) divided by T instead of T-1: smaller in size than `bwt`.

    1/T sum_{i<=T} (R[T][i] - R[i][i]) (SAPT's score.py; TRACE's BWT_t). The tasks that the generation itself
    teaches add 0.
    """
    row = _last(R) if t is None else t
    taught = _taught(learned_at, row)
    return _mean((_cell(R, row, i) - _cell(R, k, i) for i, k in taught), f"taught up to generation {row}")


def fwt_zero_shot(R: Matrix, learned_at: LearnedAt) -> float:
    """FWT, what earlier stages did for a task before its own: positive is transfer.

    1/(T-1) sum_{i>=2} (R[i-1][i] - R[0][i]) (GEM, with the base model as the reference). Over the tasks
    taught after generation 1; needs the upper triangle.
    """
    later = [(i, k) for i, k in _taught(learned_at, _last(R)) if k > 1]
    return _mean((_cell(R, k - 1, i) - _cell(R, 0, i) for i, k in later), "taught after generation 1")


def fwt_single_task(R: Matrix, learned_at: LearnedAt, single: Sequence[Cell]) -> float:
    """FWT against models trained on one task alone: positive means the stream learns it better.

    1/T sum_i (R[i][i] - S[i]) (SAPT, whose score.py hard-codes 50.94 for the mean of S), with `single` = S by
    column.
    """
    taught = _taught(learned_at, _last(R))
    return _mean((_cell(R, k, i) - _single(single, i) for i, k in taught), "taught so far")


def relative_gain(R: Matrix, learned_at: LearnedAt, single: Sequence[Cell]) -> float:
    """RG in percent: the last generation's scores on earlier tasks as shares of single-task experts'.

    RG_T = 100/(T-1) sum_{i<T} R[T][i] / U_i (InsCL, arXiv 2403.11435), with `single` = U by column, all above
    0.
    """
    last = _last(R)

    def share(i: int) -> float:
        expert = _single(single, i)
        if expert <= 0:
            raise Undefined(f"relative gain divides by the single-task score of task {i}, which is {expert}")
        return _cell(R, last, i) / expert

    return 100 * _mean((share(i) for i, _ in _earlier(learned_at, last)), _BEFORE)


def plasticity(R: Matrix, learned_at: LearnedAt) -> float:
    """The mean diagonal 1/T sum_i R[i][i]: the score of each task right after the stage that teaches it."""
    return _mean((_cell(R, k, i) for i, k in _taught(learned_at, _last(R))), "taught so far")


def group_delta(R: Matrix, columns: Sequence[int], t: int | None = None) -> float:
    """What generation t (default: the last) has gained over the base model on a group of probes, by their columns.

    Delta R_t = 1/M sum_i (R[t][i] - R[0][i]) (TRACE, arXiv 2310.06762: General Ability,
    Instruction Following and Safety Delta). TRACE takes the last two as a judge's win minus lose rates; here they are
    whatever the group's tasks are measured by.
    """
    row = _last(R) if t is None else t
    return _mean((_cell(R, row, i) - _cell(R, 0, i) for i in columns), "of that group")


DELTAS = {"general": "general_ability_delta", "instruction": "instruction_following_delta"}
"""TRACE's names of its deltas by group; `safety_delta` and those of other groups are called after the group."""


def delta_name(group: str) -> str:
    """Name of the delta of a group of probes, as a metric."""
    return DELTAS.get(group, f"{group}_delta")


LEVELS: dict[str, Callable[[Matrix, LearnedAt], float]] = {
    "average_performance": average_performance,
    "overall_performance": overall_performance,
    "plasticity": plasticity,
}
DIFFERENCES: dict[str, Callable[[Matrix, LearnedAt], float]] = {
    "forgetting_max": forgetting_max,
    "forgetting_first": forgetting_first,
    "bwt": bwt,
    "bwt_over_t": bwt_over_t,
    "fwt_zero_shot": fwt_zero_shot,
}
AGAINST_SINGLE: dict[str, Callable[[Matrix, LearnedAt, Sequence[Cell]], float]] = {
    "fwt_single_task": fwt_single_task,
    "relative_gain": relative_gain,
}


def continual_metrics(matrix: ScoreMatrix, single: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
    """All metrics that the matrix defines, grouped by score unit: {"exact_match": {"bwt": -0.1, ...}, ...}.

    Tasks of different metrics are never averaged together. `single` gives the scores of models trained on one
    task alone, by task name, for `fwt_single_task` and `relative_gain`. A metric that a unit does not define
    (see Undefined) is left out. Where lower is better, levels (LEVELS) keep their own unit, while every
    difference is taken on the `oriented` matrix: forgetting above 0 is a loss and transfer above 0 a gain for
    every unit; `relative_gain`, a ratio, is left out there.
    """
    return {metric: _metrics_of(matrix.of(metric), single or {}) for metric in matrix.units}


def _metrics_of(matrix: ScoreMatrix, single: Mapping[str, float]) -> dict[str, float]:
    learned, lower = matrix.learned_rows, matrix.lower_is_better
    [alone] = oriented([[single.get(task) for task in matrix.tasks]], lower)
    turned = oriented(matrix.R, lower)
    values: dict[str, float] = {}
    for name, level in LEVELS.items():
        _put(values, name, partial(level, matrix.R, learned))
    for name, difference in DIFFERENCES.items():
        _put(values, name, partial(difference, turned, learned))
    for group, columns in matrix.columns_of.items():
        _put(values, delta_name(group), partial(group_delta, turned, columns))
    for name, against in AGAINST_SINGLE.items():
        _put(values, name, partial(against, turned, learned, alone))
    return values


def _put(values: dict[str, float], name: str, compute: Callable[[], float]) -> None:
    try:
        values[name] = compute()
    except Undefined:
        return


_BEFORE = "taught before the last generation"


def _last(R: Matrix) -> int:
    return len(R) - 1


def _taught(learned_at: LearnedAt, row: int) -> list[tuple[int, int]]:
    """(column, row that teaches it) of the tasks taught up to this row."""
    return [(i, k) for i, k in enumerate(learned_at) if k is not None and k <= row]


def _earlier(learned_at: LearnedAt, row: int) -> list[tuple[int, int]]:
    """(column, row that teaches it) of the tasks taught before this row."""
    return _taught(learned_at, row - 1)


def _cell(R: Matrix, row: int, column: int) -> float:
    value = R[row][column]
    if value is None:
        raise Undefined(f"R[{row}][{column}] was not measured: score generation {row} on task {column} first")
    return value


def _single(single: Sequence[Cell], column: int) -> float:
    value = single[column]
    if value is None:
        raise Undefined(f"no single-task score of task {column}: train and measure a model on that task alone")
    return value


def _mean(values: Iterable[float], which: str) -> float:
    numbers = list(values)
    if not numbers:
        raise Undefined(f"no task is {which}, so there is nothing to average")
    return fmean(numbers)
