"""How good a trial is: objectives and constraints over its metrics and costs, and which trials are the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clray.errors import SpecError
from clray.evaluation.metrics import AGAINST_SINGLE, DIFFERENCES, LEVELS
from clray.spec.expression import Expression, NoValue, constraint
from clray.spec.sweep import Sweep
from clray.spec.task import LOWER_IS_BETTER

COSTS = ("tokens", "device_seconds", "flops")
Metrics = Mapping[str, Mapping[str, float]]
"""Unit of score -> metric -> value, as `continual_metrics` gives them."""


@dataclass(frozen=True)
class Score:
    """Values of the objectives, in their order, and by how much each constraint is broken (0 or less: kept)."""

    values: tuple[float, ...]
    excesses: tuple[float, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether all constraints are kept."""
        return all(excess <= 0 for excess in self.excesses)

    @property
    def broken_by(self) -> float:
        """Sum of what the constraints are broken by."""
        return sum(max(0.0, excess) for excess in self.excesses)


def names(metrics: Metrics, costs: Mapping[str, float]) -> dict[str, float]:
    """What expressions may name: `unit.metric`, `metric` alone where there is one unit, and the costs."""
    found = {f"{unit}.{name}": value for unit, named in metrics.items() for name, value in named.items()}
    if len(metrics) == 1:
        found |= next(iter(metrics.values()))
    return {**found, **costs}


def early_names(metrics: Metrics, costs: Mapping[str, float]) -> dict[str, float]:
    """The same for a trial that has not ended: what needs a past that it has not got yet is 0."""
    whole = {unit: {**dict.fromkeys(DIFFERENCES, 0.0), **named} for unit, named in metrics.items()}
    return names(whole, costs)


def score(sweep: Sweep, values: Mapping[str, float]) -> Score:
    """The score of a trial whose `names` have these values. NoValue where an expression has none."""
    return Score(
        tuple(objective.expression.value(values) for objective in sweep.objectives),
        tuple(constraint(text).excess(values) for text in sweep.constraints),
    )


def early_value(sweep: Sweep, values: Mapping[str, float]) -> float | None:
    """Value of the first objective for a trial that has not ended, more being better; None where it has none yet."""
    first = sweep.objectives[0]
    try:
        return first.sign * first.expression.value(values)
    except NoValue:
        return None


def check_names(sweep: Sweep, defined: Mapping[str, float]) -> None:
    """Raises SpecError where an expression names what a full trial will not have; `defined` is what it will."""
    expressions = [o.expression for o in sweep.objectives] + [constraint(t).excess_of for t in sweep.constraints]
    for found in expressions:
        for name in found.names:
            if name not in defined:
                raise SpecError(f"sweep '{sweep.name}': {_why_missing(name, found, defined)}")
    for objective in sweep.objectives:
        _check_direction(sweep, objective.text, objective.sign, defined)
    if sweep.stopping.kind != "none" or (sweep.fidelity and sweep.fidelity.of == "stages"):
        late = [name for name in sweep.objectives[0].expression.names if name.rpartition(".")[2] in AGAINST_SINGLE]
        if late:
            raise SpecError(
                f"sweep '{sweep.name}': '{late[0]}' is known when a trial ends, so none can be judged by it before; "
                "put another objective first, or leave 'stopping' and 'fidelity' out"
            )


def ranking(scores: Sequence[Score], signs: Sequence[int]) -> list[int]:
    """Numbers of the scores, the best first: what keeps all constraints before what does not, less broken before more,
    then by Pareto front, then by the objectives in their order, then as they came."""
    turned = [tuple(sign * value for sign, value in zip(signs, one.values, strict=True)) for one in scores]
    fronts = front_numbers(turned)
    return sorted(
        range(len(scores)),
        key=lambda n: (scores[n].broken_by > 0, scores[n].broken_by, fronts[n], tuple(-v for v in turned[n]), n),
    )


def front_numbers(points: Sequence[tuple[float, ...]]) -> list[int]:
    """For each point the front it lies on, 0 being the Pareto front; more is better in every coordinate."""
    numbers, left, front = [0] * len(points), set(range(len(points))), 0
    while left:
        best = {n for n in left if not any(_dominates(points[m], points[n]) for m in left)}
        for n in best:
            numbers[n] = front
        left -= best
        front += 1
    return numbers


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _why_missing(name: str, found: Expression, defined: Mapping[str, float]) -> str:
    known = f"known are {', '.join(sorted(defined))}"
    if name in AGAINST_SINGLE:
        return f"'{name}' of '{found.text}' compares with single-task experts; set stream.experts=true. Else {known}"
    if name in {*LEVELS, *DIFFERENCES} and any(other.endswith(f".{name}") for other in defined):
        units = [other for other in sorted(defined) if other.endswith(f".{name}")]
        return f"the tasks have several units of score: write {' or '.join(units)} in place of '{name}'"
    return f"'{name}' of '{found.text}' is no metric that a trial has; {known}"


def _check_direction(sweep: Sweep, text: str, sign: int, defined: Mapping[str, float]) -> None:
    """A level in a unit where less is better, alone, must be minimised; so must forgetting and costs."""
    unit, _, metric = text.rpartition(".")
    units = [unit] if unit else [name.partition(".")[0] for name in defined if name.endswith(f".{metric}")]
    lower = metric in COSTS or metric.startswith("forgetting")
    lower = lower or (metric in LEVELS and bool(units) and set(units) <= LOWER_IS_BETTER)
    wrong = (lower and sign > 0) or (not lower and sign < 0 and metric in {*LEVELS, *DIFFERENCES, *AGAINST_SINGLE})
    if wrong:
        raise SpecError(
            f"sweep '{sweep.name}': less '{text}' is {'better' if lower else 'worse'}; "
            f"write {'minimise' if lower else 'maximise'}: {text}"
        )
