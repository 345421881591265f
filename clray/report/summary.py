"""The headline: what was learnt and what was forgotten, the stream beside each control."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    Measure(
        "relative_gain",
        "Relative gain",
        "What is kept of what each task could be: the last score as a share of its single-task expert's, on "
        "average over the tasks taught before the last stage. 100 % is as good as the experts.",
    ),
)
"""The cards. One that no line has a value of is left out."""

OTHERS = {
    "overall_performance": ("Overall performance", "mean score of the last generation over the tasks taught so far"),
    "forgetting_first": ("Forgetting since taught", "fall from the score right after the task's stage: minus BWT"),
    "bwt_over_t": ("Backward transfer over T", "backward transfer divided by all tasks, the last ones too"),
    "fwt_zero_shot": ("Forward transfer, zero-shot", "score just before a task's stage against the base model's"),
    "fwt_single_task": (
        "Forward transfer, single-task",
        "score right after a task's stage against its single-task expert's",
    ),
    "general_ability_delta": ("General ability", "what the last generation has gained over the base model on probes"),
}


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
class Other:
    """One measure more: its value on each line."""

    title: str
    meaning: str
    values: list[str]


@dataclass(frozen=True)
class Block:
    """The headline of one score unit."""

    unit: Unit
    num_tasks: int
    sentence: str
    cards: list[Card]
    others: list[Other] = field(default_factory=list)


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
        cards=[_card(view, unit, measure) for measure in MEASURES if _is_known(view, unit, measure.key)],
        others=_others(view, unit),
    )


def _value(line: Line, unit: Unit, key: str) -> float | None:
    """The measure as a score; `relative_gain` comes in percent."""
    value = finite(line.metrics.get(unit.metric, {}).get(key))
    return value / 100 if key == "relative_gain" and value is not None else value


def _is_known(view: View, unit: Unit, key: str) -> bool:
    return any(_value(line, unit, key) is not None for line in view.lines)


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
        even = not unit.rounded(lead)
        judgement = "even" if even else "good" if (lead < 0) == lower else "bad"
        rivals.append(Rival(line, show(other), unit.signed(lead), judgement))
    direction = "lower is better" if lower else "higher is better"
    suffix = unit.suffix if measure.is_score else (" pt" if unit.suffix else "")
    return Card(measure, show(own), suffix if own is not None else "", direction, rivals)


def _sentence(view: View, unit: Unit, num_tasks: int) -> str:
    average, lost = _value(view.stream, unit, "average_performance"), _lost(view.stream, unit)
    if average is None:
        return ""
    points = " points" if unit.suffix else ""
    what = "" if unit.suffix else f" ({unit.label}, lower is better)"
    tasks = "the one task" if num_tasks == 1 else f"the {num_tasks} tasks"
    text = f"On {tasks} it was taught, the last generation scores {unit.show(average)}{unit.suffix}{what}"
    if lost is not None:
        text += f" and {_fallen(unit, lost)}{points} on average"
    for line in view.controls[:1]:
        other, other_lost = _value(line, unit, "average_performance"), _lost(line, unit)
        if other is not None:
            text += f"; the control {line.name} scores {unit.show(other)}{unit.suffix}"
            text += f" and {_fallen(unit, other_lost)}" if other_lost is not None else ""
    return text + "."


def _lost(line: Line, unit: Unit) -> float | None:
    """Forgetting; since each task was taught, where the generations between were not measured."""
    lost = _value(line, unit, "forgetting_max")
    return _value(line, unit, "forgetting_first") if lost is None else lost


def _fallen(unit: Unit, lost: float) -> str:
    return f"has {'gained' if (unit.rounded(lost) or 0) < 0 else 'lost'} {unit.show(abs(lost))}"


def _others(view: View, unit: Unit) -> list[Other]:
    shown = {measure.key for measure in MEASURES}
    keys = dict.fromkeys(key for line in view.lines for key in line.metrics.get(unit.metric, {}))
    return [
        Other(
            *OTHERS.get(key, (key.replace("_", " "), "")),
            [unit.show(_value(line, unit, key)) for line in view.lines],
        )
        for key in keys
        if key not in shown
    ]
