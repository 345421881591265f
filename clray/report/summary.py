"""The headline: what was learnt and what was forgotten, the stream beside each control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clray.report.numbers import Unit, finite
from clray.report.view import Line, View


@dataclass(frozen=True)
class Measure:
    """One of the numbers that sum up a score matrix, in plain words."""

    key: str
    title: str
    meaning: str
    is_loss: bool = False
    is_score: bool = True


MEASURES = (
    Measure(
        "average_performance",
        "Average performance",
        "What the last generation can do: the mean of the last row of the score matrix, over the tasks it was taught.",
    ),
    Measure(
        "forgetting_max",
        "Forgetting",
        "What was lost: how far each task has fallen from the best score it ever had, on average over the "
        "tasks taught before the last stage. Zero is ideal.",
        is_loss=True,
        is_score=False,
    ),
    Measure(
        "bwt",
        "Backward transfer",
        "What later stages did to earlier tasks: last score against the score right after the task was "
        "taught. Below zero means forgetting; above zero, later stages helped.",
        is_score=False,
    ),
    Measure(
        "plasticity",
        "Plasticity",
        "How well new things are learnt: the mean score of each task right after the stage that teaches it.",
    ),
)


@dataclass(frozen=True)
class Rival:
    """A control's value of one measure, and how far the stream is from it."""

    line: Line
    text: str
    lead: str = ""
    judgement: str = "even"


@dataclass(frozen=True)
class Card:
    """One measure of one unit: the stream's value, and each control's."""

    measure: Measure
    text: str
    suffix: str
    direction: str
    rivals: list[Rival]


@dataclass(frozen=True)
class Block:
    """The headline of one score unit."""

    unit: Unit
    num_tasks: int
    sentence: str
    cards: list[Card]
    others: list[tuple[str, list[str]]] = field(default_factory=list)


def headline(view: View) -> list[Block]:
    """One block for each score unit that any line has metrics of."""
    units = [unit for unit in view.units if any(line.metrics.get(unit.metric) for line in view.lines)]
    return [_block(view, unit) for unit in units]


def _block(view: View, unit: Unit) -> Block:
    tasks = [t for t in view.stream.tasks if view.stream.unit(t) == unit and view.stream.learned_at(t) is not None]
    return Block(
        unit=unit,
        num_tasks=len(tasks),
        sentence=_sentence(view, unit, len(tasks)),
        cards=[_card(view, unit, measure) for measure in MEASURES],
        others=_others(view, unit),
    )


def _value(line: Line, unit: Unit, key: str) -> float | None:
    return finite(line.metrics.get(unit.metric, {}).get(key))


def _card(view: View, unit: Unit, measure: Measure) -> Card:
    own = _value(view.stream, unit, measure.key)
    show = unit.signed if measure.key == "bwt" else unit.show
    lower = unit.lower if measure.is_score else measure.is_loss
    rivals = []
    for line in view.controls:
        other = _value(line, unit, measure.key)
        if own is None or other is None:
            rivals.append(Rival(line, show(other)))
            continue
        lead = own - other
        even = not float(unit.show(lead))
        judgement = "even" if even else "good" if (lead < 0) == lower else "bad"
        rivals.append(Rival(line, show(other), unit.signed(lead), judgement))
    direction = "lower is better" if lower else "higher is better"
    suffix = unit.suffix if measure.is_score else (" pt" if unit.suffix else "")
    return Card(measure, show(own), suffix if own is not None else "", direction, rivals)


def _sentence(view: View, unit: Unit, num_tasks: int) -> str:
    average, lost = (_value(view.stream, unit, key) for key in ("average_performance", "forgetting_max"))
    if average is None:
        return ""
    points = " points" if unit.suffix else ""
    what = "" if unit.suffix else f" ({unit.label}, lower is better)"
    tasks = "the one task" if num_tasks == 1 else f"the {num_tasks} tasks"
    text = f"On {tasks} it was taught, the last generation scores {unit.show(average)}{unit.suffix}{what}"
    if lost is not None:
        text += f" and has lost {unit.show(lost)}{points} on average"
    for line in view.controls[:1]:
        other, other_lost = (_value(line, unit, key) for key in ("average_performance", "forgetting_max"))
        if other is not None:
            text += f"; the control {line.name} scores {unit.show(other)}{unit.suffix}"
            text += f" and has lost {unit.show(other_lost)}" if other_lost is not None else ""
    return text + "."


def _others(view: View, unit: Unit) -> list[tuple[str, list[str]]]:
    shown = {measure.key for measure in MEASURES}
    rows: dict[str, Any] = {}
    for line in view.lines:
        for key in line.metrics.get(unit.metric, {}):
            if key not in shown:
                rows[key] = [_shown(unit, key, _value(other, unit, key)) for other in view.lines]
    return list(rows.items())


def _shown(unit: Unit, key: str, value: float | None) -> str:
    """`relative_gain` is in percent already."""
    return unit.show(value / 100 if key == "relative_gain" and value is not None else value)
