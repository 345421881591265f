"""Small multiples: scores over generations, losses and what goes with them over steps.

Only geometry; `charts.html` draws it. Drawn by hand as SVG, not by matplotlib: the colours are CSS variables, so one
page serves light, dark and paper; every mark has its tooltip; and fifteen panels cost milliseconds and kilobytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from clray.report.numbers import Unit, finite, short_count
from clray.report.scale import Point, Scale, path, smooth, spread, thin, ticks, whole_ticks
from clray.report.view import Line, View

WIDTH, HEIGHT = 350, 208
LEFT, RIGHT, TOP, BOTTOM = 40, 304, 14, 172
LABEL_GAP = 12.0
KEPT_POINTS = 4000
RAW_POINTS, SMOOTH_POINTS = 600, 300
"""Points drawn in one panel, shared by its curves: more cannot be told apart."""
PAGE_POINTS = 24_000
"""Raw points of all panels of one course: where there are hundreds of stages, each is drawn more coarsely."""
MOST_DOTS = 60
"""Generations up to which each score has a dot and a tooltip; beyond, where a task is taught and the last one."""
SHOWN_PANELS = 24
"""Panels of one kind that stand open on the page; the others are folded away."""


@dataclass(frozen=True)
class Dot:
    """A measured point with its tooltip."""

    x: float
    y: float
    title: str
    is_taught: bool = False


@dataclass(frozen=True)
class Curve:
    """One line's path in a panel; `faint` is drawn thin below it, `band` as an area below both."""

    line: Line
    path: str
    faint: str
    dots: list[Dot]
    label: str
    label_x: float
    label_y: float
    title: str
    band: str = ""


@dataclass(frozen=True)
class Panel:
    """One small chart. `floor_y` is the height of its axis; None: that of the lowest tick."""

    title: str
    subtitle: str
    colour: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_label: str
    curves: list[Curve]
    taught_x: float | None = None
    notes: list[str] = field(default_factory=list)
    floor_y: float | None = None


@dataclass(frozen=True)
class Course:
    """A column of the training curves, in words and with its axis: an end that is None is where the values end."""

    column: str
    name: str
    unit: str
    low: float | None = None
    high: float | None = None


LOSS = Course("loss", "loss", "training loss, nats per token")
EXTRA_LOSS = Course("extra_loss", "added loss", "added to the loss", low=0.0)
NEWEST_BLOCK = Course("newest_block_weight", "weight", "mean weight of the new block", low=0.0, high=1.0)

REWARD_MARGIN = Course("reward_margin", "margin", "mean reward margin of the pairs")
REWARD_ACCURACY = Course("reward_accuracy", "accuracy", "share of pairs with a margin above 0", low=0.0, high=1.0)
CHOSEN = Course("chosen_log_prob", "log p(chosen)", "mean log p of the chosen answers, nats")
REJECTED = Course("rejected_log_prob", "log p(rejected)", "mean log p of the rejected answers, nats")


@dataclass(frozen=True)
class CourseGroup:
    """The panels of one course, with what they are about."""

    title: str
    caption: str
    panels: list[Panel]


COURSES = (
    (
        EXTRA_LOSS,
        "Added to the loss",
        "What the method asks beside the loss above, already weighted: the overlap with earlier blocks (O-LoRA), or "
        "how far earlier tasks' inputs have moved to other blocks (SAPT's attentive reflection). Steps to which "
        "nothing is added are left out.",
    ),
    (
        NEWEST_BLOCK,
        "Weight of the new block",
        "How much the shared attention gives to the block that the stage trains, on average over each step's batch. "
        "The first block stands alone, at one. Near zero a block gets hardly any gradient, so its stage learns little.",
    ),
    (
        REWARD_MARGIN,
        "Reward margin of preference pairs",
        "How much further the chosen answer has risen above the rejected one than in the generation that the stage "
        "started from, times beta: zero at first, and above zero where the preference is learnt.",
    ),
    (
        REWARD_ACCURACY,
        "Pairs with a margin above zero",
        "The share of each step's pairs whose chosen answer has gained on the rejected one.",
    ),
    (
        CHOSEN,
        "Chosen answers",
        "How likely the chosen answers are. Where this falls together with the rejected ones, the model forgets both "
        "(align.likelihood holds it).",
    ),
    (REJECTED, "Rejected answers", "How likely the rejected answers are."),
)


def forgetting_panels(view: View) -> list[Panel]:
    """For each task its score over the generations, one curve a line."""
    return [_forgetting(view, task) for task in view.tasks]


def loss_panels(view: View) -> list[Panel]:
    """For each stage with a recorded curve its training loss, one curve for each line that trained it."""
    return _course_panels(view, LOSS)


def course_groups(view: View) -> list[CourseGroup]:
    """What else was recorded at each step, by what it is; nothing where no curve has it."""
    groups = [CourseGroup(title, caption, _course_panels(view, course)) for course, title, caption in COURSES]
    return [group for group in groups if group.panels]


def _course_panels(view: View, course: Course) -> list[Panel]:
    coarser = min(1.0, PAGE_POINTS / (RAW_POINTS * max(1, len(view.stages))))
    panels = [_course_panel(view, stage, course, coarser) for stage in view.stages]
    return [panel for panel in panels if panel is not None]


def _forgetting(view: View, task: str) -> Panel:
    lines = [line for line in view.lines if task in line.tasks]
    unit, home = lines[0].unit(task), lines[0]
    last = max(1, max(len(line.matrix["R"]) for line in view.lines) - 1)
    y_values = ticks(*view.domain(unit))
    x, y = Scale(0, last, LEFT, RIGHT), Scale(y_values[0], y_values[-1], BOTTOM, TOP)
    curves = _separate([c for line in reversed(lines) if (c := _score_curve(line, task, unit, x, y)) is not None])
    taught = home.learned_at(task)
    where = "probe, never trained on" if taught is None else f"taught at generation {taught}"
    return Panel(
        title=task,
        subtitle=f"{unit.label}{', %' if unit.suffix else ', lower is better'} · {where}",
        colour=view.task_colour(task),
        x_ticks=[(x(n), str(n)) for n in whole_ticks(last, 8)],
        y_ticks=[(y(v), axis_number(v * (100 if unit.suffix else 1))) for v in y_values],
        x_label="generation",
        curves=curves,
        taught_x=None if taught is None or taught > last else x(taught),
    )


def _score_curve(line: Line, task: str, unit: Unit, x: Scale, y: Scale) -> Curve | None:
    scores, taught = line.column(task), line.learned_at(task)
    points = [None if score is None else (x(n), y(score)) for n, score in enumerate(scores)]
    dots = [
        Dot(
            *point,
            f"{line.name}, generation {n} ({line.stages[n]}): {unit.show(scores[n])}{unit.suffix}",
            n == taught,
        )
        for n, point in enumerate(points)
        if point is not None
    ]
    if not dots:
        return None
    if len(dots) > MOST_DOTS:
        dots = [*(dot for dot in dots[:-1] if dot.is_taught), dots[-1]]
    start = taught or 0
    return Curve(
        line=line,
        path=path(filter(None, points[start:])),
        faint=path(filter(None, points[: start + 1])) if start else "",
        dots=dots,
        label=unit.show([score for score in scores if score is not None][-1]),
        label_x=dots[-1].x,
        label_y=dots[-1].y,
        title=f"{line.name}: {task}",
    )


def _course_panel(view: View, stage: str, course: Course, coarser: float) -> Panel | None:
    curves: list[tuple[Line, list[Point]]] = []
    for line, generations in view.own_generations:
        for generation in generations:
            points = _points(generation, course) if generation["stage_name"] == stage else []
            curves += [(line, points)] if points else []
    if not curves:
        return None
    smoothed = [(line, raw, smooth(raw)) for line, raw in curves]
    x_high = max(raw[-1][0] for _, raw in curves)
    y_values = ticks(*_domain(course, [raw for _, raw in curves], [soft for *_, soft in smoothed]))
    x_values = [v for v in ticks(0, x_high) if v <= x_high]
    x, y = Scale(0, x_high or 1, LEFT, RIGHT), Scale(y_values[0], y_values[-1], BOTTOM, TOP)
    kind = next(
        g.get("stage", {}).get("kind", "") for ln in view.lines for g in ln.generations if g["stage_name"] == stage
    )
    shared = _sharing(view, stage)
    return Panel(
        title=stage,
        subtitle=f"{kind + ' · ' if kind else ''}{course.unit}",
        colour=view.stage_colour(stage),
        x_ticks=[(x(v), short_count(v)) for v in x_values],
        y_ticks=[(y(v), axis_number(v)) for v in y_values],
        x_label="step",
        curves=_separate(
            [
                _course_curve(course, line, raw, soft, x, y, coarser / max(2, len(smoothed)))
                for line, raw, soft in reversed(smoothed)
            ]
        ),
        notes=[f"{', '.join(shared)}: no training of its own here"] if shared else [],
    )


def _course_curve(
    course: Course, line: Line, raw: list[Point], soft: list[Point], x: Scale, y: Scale, share: float
) -> Curve:
    last = soft[-1]
    return Curve(
        line=line,
        path=path((x(a), y(b)) for a, b in thin(soft, int(SMOOTH_POINTS * share))),
        faint=path((x(a), y(b)) for a, b in thin(raw, int(RAW_POINTS * share))) if len(raw) > 2 else "",
        dots=[
            Dot(
                x(raw[-1][0]),
                y(last[1]),
                f"{line.name}: {course.name} {raw[0][1]:.4g} at first, {raw[-1][1]:.4g} at last",
            )
        ],
        label=_label(last[1]),
        label_x=x(last[0]),
        label_y=y(last[1]),
        title=f"{line.name}: smoothed {course.name} {soft[0][1]:.4g} to {last[1]:.4g}",
    )


def _sharing(view: View, stage: str) -> list[str]:
    """Lines that go through the stage, but take its generation from an earlier line."""
    own = {(line.number, g["stage_name"]) for line, found in view.own_generations for g in found}
    through = [line for line in view.lines if any(g["stage_name"] == stage for g in line.generations)]
    return [line.name for line in through if (line.number, stage) not in own]


def _points(generation: dict[str, Any], course: Course) -> list[Point]:
    """Steps and values, of at most about KEPT_POINTS rows of the curve, the first and the last among them."""
    curve = generation.get("curve") or []
    stride = math.ceil(len(curve) / KEPT_POINTS) or 1
    kept = [*curve[:-1:stride], *curve[-1:]]
    points = [(finite(row.get("step")), finite(row.get(course.column))) for row in kept]
    return [(step, value) for step, value in points if step is not None and value is not None]


def _domain(course: Course, raws: list[list[Point]], softs: list[list[Point]]) -> tuple[float, float]:
    """From the lowest value to the highest smoothed one; at most one raw value in fifty is cut off above."""
    values = sorted(value for raw in raws for _, value in raw)
    high = values[min(len(values) - 1, int(len(values) * 0.98))]
    low = values[0] if course.low is None else min(course.low, values[0])
    return low, course.high or max(high, *(value for soft in softs for _, value in soft), low + 1e-9)


def _separate(curves: list[Curve]) -> list[Curve]:
    heights = spread([curve.label_y for curve in curves], LABEL_GAP, TOP, BOTTOM)
    return [Curve(**{**vars(curve), "label_y": round(h, 1)}) for curve, h in zip(curves, heights, strict=True)]


def _label(value: float) -> str:
    """The number at the end of a curve, short enough to stand beside the panel."""
    if abs(value) >= 1000:
        return short_count(value)
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def axis_number(value: float) -> str:
    """A number beside an axis."""
    return short_count(value) if abs(value) >= 1000 else f"{value:.4g}"
