"""The continual pre-training benchmark in figures: change against zero-shot, by distance, and beside similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from clray.evaluation.transfer import AtDistance, Domain, known, similarity_correlation
from clray.report.figures import BOTTOM, LEFT, RIGHT, TOP, Curve, Dot, Panel, axis_number
from clray.report.heat import Cell, Head, Picture, Row, picture
from clray.report.numbers import MINUS, NOTHING, Unit
from clray.report.scale import Scale, path, ticks
from clray.report.transfer import Measured, correlated, percent
from clray.report.view import Line, View

COLOUR = "rgb(var(--heat))"
TOLD_APART = 0.95
"""Share of the changes that the colour scale tells apart; the rest, which may lie far out, has its full colour."""


@dataclass(frozen=True)
class ChangeMap:
    """Changes against zero-shot of one line: a row for each trained generation, a column for each domain.

    The shade of a cell is the size of the change, its hue "worse" or, for gains, none.
    """

    line: Line
    unit: Unit
    domains: tuple[Domain, ...]
    heads: list[Head]
    rows: list[Row]
    is_wide: bool
    picture: Picture | None


@dataclass(frozen=True)
class Likeness:
    """The similarity of domains, or of the stages that teach them; `correlations` in words, by line."""

    names: list[str]
    heads: list[Head]
    rows: list[Row]
    scale: tuple[str, str]
    correlations: list[tuple[Measured, str]]
    is_wide: bool
    picture: Picture | None


def change_maps(view: View, found: Sequence[Measured]) -> list[ChangeMap]:
    """The heat map of each line, all on the scale of `change_limit`."""
    limit = change_limit(found)
    cells = sum(len(one.transfer.domains) * len(one.line.stages) for one in found)
    return [_change_map(view, one, limit, cells) for one in found]


def change_limit(found: Sequence[Measured]) -> float:
    """The size of change at which the colours are full."""
    domains = [domain for one in found for domain in one.transfer.domains]
    changes = [domain.change(row) for domain in domains for row in range(1, len(domain.scores))]
    sizes = sorted(abs(change) for change in changes if change is not None)
    return (sizes[int(TOLD_APART * (len(sizes) - 1))] if sizes else 0.0) or 1.0


def distance_panels(found: Sequence[Measured]) -> list[Panel]:
    """For each line the change against zero-shot over the distance to the domain's own stage, at one scale."""
    reach = max((abs(at.distance) for one in found for at in one.transfer.distances), default=0) or 1
    ends = [end for one in found for at in one.transfer.distances for end in (at.change.low, at.change.high)]
    y_values = ticks(100 * min([0.0, *ends]), 100 * max([0.0, *ends]))
    x, y = Scale(-reach, reach, LEFT, RIGHT), Scale(y_values[0], y_values[-1], BOTTOM, TOP)
    return [_distance_panel(one, x, y, y_values) for one in found if one.transfer.distances]


def learning_panels(found: Sequence[Measured]) -> list[Panel]:
    """For each line with experts the gain over DAPT by the number of the stage, at one scale."""
    gains = [domain.gain for one in found for domain in one.transfer.domains if domain.gain is not None]
    last = max((domain.learned for one in found for domain in one.transfer.domains), default=1)
    y_values = ticks(100 * min([0.0, *gains]), 100 * max([0.0, *gains]))
    x, y = Scale(0, last, LEFT, RIGHT), Scale(y_values[0], y_values[-1], BOTTOM, TOP)
    return [_learning_panel(one, x, y, y_values) for one in found if one.transfer.learning.count]


def likeness(view: View, found: Sequence[Measured]) -> Likeness | None:
    """The similarity matrix and what goes with it; None where none was measured."""
    similarity = view.similarity
    if not similarity or not found:
        return None
    names = list(similarity.get("domains") or similarity["stages"])
    cosine = [
        [known(value) if i != j else None for j, value in enumerate(row)] for i, row in enumerate(similarity["cosine"])
    ]
    there = [value for row in cosine for value in row if value is not None]
    low, high = (min(there), max(there)) if there else (0.0, 1.0)
    heads = [Head(name, name, view.stage_colour(name)) for name in names]
    rows: list[Row] = [
        (
            i + 1,
            name,
            [None if i == j else _like(name, names[j], value, low, high) for j, value in enumerate(cosine[i])],
        )
        for i, name in enumerate(names)
    ]
    return Likeness(
        names=names,
        heads=heads,
        rows=rows,
        scale=(_cosine(low), _cosine(high)),
        correlations=[(one, correlated(similarity_correlation(similarity, one.transfer), "pairs")) for one in found],
        is_wide=len(names) > 8,
        picture=picture(heads, rows, len(names) ** 2),
    )


def _change_map(view: View, one: Measured, limit: float, cells: int) -> ChangeMap:
    domains = one.transfer.domains
    heads = [Head(domain.task, domain.task, view.task_colour(domain.task)) for domain in domains]
    rows: list[Row] = [
        (row, stage, [_shift(one.unit, domain, row, stage, limit) for domain in domains])
        for row, stage in enumerate(one.line.stages)
        if row
    ]
    return ChangeMap(one.line, one.unit, domains, heads, rows, len(domains) > 8, picture(heads, rows, cells))


def _shift(unit: Unit, domain: Domain, row: int, stage: str, limit: float) -> Cell:
    change, far = domain.change(row), row - domain.learned
    when = f"{abs(far)} {'before' if far < 0 else 'after'} its own stage" if far else "its own stage"
    where = f"{domain.task} at generation {row} ({stage}), {when}"
    if change is None:
        return Cell(NOTHING, None, not far, False, f"{where}: not measured")
    title = f"{where}: {percent(change)}%, {unit.show(domain.scores[row])} against {unit.show(domain.zs)} zero-shot"
    shade = round(min(1.0, abs(change) / limit), 3)
    return Cell(percent(change), shade, not far, False, title, "worse" if change < 0 else "")


def _distance_panel(one: Measured, x: Scale, y: Scale, y_values: list[float]) -> Panel:
    curve, transfer = one.transfer.distances, one.transfer
    line, lower, upper = (
        [(x(at.distance), y(100 * getattr(at.change, end))) for at in curve] for end in ("median", "low", "high")
    )
    sides = (("forward", transfer.forward), ("backward", transfer.backward))
    return Panel(
        title=one.line.name,
        subtitle=f"{one.unit.label} against zero-shot, % better",
        colour=COLOUR,
        x_ticks=[(x(n), _axis(n)) for n in _around(round(x.high))],
        y_ticks=[(y(value), _axis(value)) for value in y_values],
        x_label="generations after the domain's own",
        curves=[
            Curve(
                line=one.line,
                path=path(line),
                faint="",
                dots=[Dot(*point, _tip(at), not at.distance) for point, at in zip(line, curve, strict=True)],
                label=percent(curve[-1].change.median),
                label_x=line[-1][0],
                label_y=line[-1][1],
                title=f"{one.line.name}: median over the domains",
                band=f"{path([*upper, *reversed(lower)])}Z",
            )
        ],
        taught_x=x(0),
        floor_y=y(0),
        notes=[f"median {name} {percent(side.median)}%" for name, side in sides if side],
    )


def _learning_panel(one: Measured, x: Scale, y: Scale, y_values: list[float]) -> Panel:
    points = [(domain, domain.gain) for domain in one.transfer.domains if domain.gain is not None]
    found, (first, last) = one.transfer.learning, (points[0][0].learned, points[-1][0].learned)
    middle, height = fmean(domain.learned for domain, _ in points), fmean(gain for _, gain in points)
    trend = [] if found.slope is None else [(n, height + found.slope * (n - middle)) for n in (first, last)]
    return Panel(
        title=one.line.name,
        subtitle=f"{one.unit.label}, % better than DAPT",
        colour=COLOUR,
        x_ticks=[(x(n), str(n)) for n in _around(round(x.high)) if n >= 0],
        y_ticks=[(y(value), _axis(value)) for value in y_values],
        x_label="stage",
        curves=[
            Curve(
                line=one.line,
                path=path((x(n), y(100 * value)) for n, value in trend),
                faint="",
                dots=[
                    Dot(x(domain.learned), y(100 * gain), f"stage {domain.learned}, {domain.task}: {percent(gain)}%")
                    for domain, gain in points
                ],
                label="",
                label_x=0,
                label_y=0,
                title=f"{one.line.name}: least squares",
            )
        ],
        floor_y=y(0),
        notes=[_trend(one)],
    )


def _trend(one: Measured) -> str:
    found = one.transfer.learning
    slope = "" if found.slope is None else f", {percent(found.slope)} points a stage"
    return f"{correlated(found, 'domains')}{slope}"


def _tip(at: AtDistance) -> str:
    far, change = at.distance, at.change
    when = f"{abs(far)} {'before' if far < 0 else 'after'}" if far else "own stage"
    quarters = f"quartiles {percent(change.low)}% to {percent(change.high)}%"
    return f"{when}: median {percent(change.median)}%, {quarters}, {change.count} domain{'s' * (change.count > 1)}"


def _around(reach: int) -> list[int]:
    """Whole numbers from -reach to reach at even steps that meet at 0, four on each side at most."""
    step = -(-reach // 4)
    return list(range(-(reach // step) * step, reach + 1, step))


def _axis(value: float) -> str:
    return f"{MINUS if value < 0 else ''}{axis_number(abs(value))}"


def _like(name: str, other: str, cosine: float | None, low: float, high: float) -> Cell:
    if cosine is None:
        return Cell(NOTHING, None, False, False, f"{name} and {other}: not known", "near")
    shade = round((cosine - low) / (high - low), 3) if high > low else 0.5
    return Cell(_cosine(cosine), shade, False, False, f"{name} and {other}: cosine {_cosine(cosine, 4)}", "near")


def _cosine(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", MINUS)
