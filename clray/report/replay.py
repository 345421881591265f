"""What each stage was shown again: distances to the earlier stages, and how many rows of each were replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clray.report.heat import Cell, Head, Picture, Row, picture
from clray.report.numbers import MINUS, NOTHING, finite, whole
from clray.report.view import Line, View

DIGIT_PERCENT = 1.1
"""Width of a part of a bar that one digit of its number needs."""

MOST_TITLES = 3000
"""Parts of all bars up to which each has a tooltip."""


@dataclass(frozen=True)
class Replay:
    """The draws of one generation, as its receipt has them."""

    index: int
    stage: str
    draws: list[dict[str, Any]]


@dataclass(frozen=True)
class Origin:
    """An earlier stage. `place` runs from 0 (first) to 100 (last stage but one) on the ordered colour scale."""

    number: int
    name: str
    place: float

    @property
    def tone(self) -> str:
        """Class of the text on its colour."""
        return "bright" if self.place > 45 else "mid" if self.place > 20 else ""


@dataclass(frozen=True)
class Distances:
    """W[t][i] of one line: a row for each stage with distances, a column for each earlier stage."""

    line: Line
    columns: list[Origin]
    heads: list[Head]
    rows: list[Row]
    solvers: str
    is_wide: bool
    picture: Picture | None


@dataclass(frozen=True)
class Part:
    """One earlier stage's part of a bar; `x` and `width` are in percent of the widest bar of the page."""

    origin: Origin
    x: float
    width: float
    label: str
    title: str


@dataclass(frozen=True)
class Bar:
    """What one stage was shown again."""

    index: int
    stage: str
    total: str
    spread: str
    parts: list[Part]


@dataclass(frozen=True)
class Quotas:
    """The bars of one line, and the colours of its stages."""

    line: Line
    kinds: str
    legend: list[Origin]
    bars: list[Bar]
    spread: str


def replays(view: View) -> list[tuple[Line, list[Replay]]]:
    """For each line that replays in a generation of its own: what each of its generations was shown again."""
    found = []
    for line, own in view.own_generations:
        if any(_draws(g) for g in own):
            drawn = [(g, _draws(g)) for g in line.generations]
            found.append((line, [Replay(g["index"], g["stage_name"], draws) for g, draws in drawn if draws]))
    return found


def origins(line: Line) -> dict[str, Origin]:
    """The stages of a line that later ones can replay, by name, in order."""
    stages = [(g["index"], g["stage_name"]) for g in line.generations if g["index"]][:-1]
    step = 100 / max(1, len(stages) - 1)
    return {name: Origin(index, name, round(n * step, 1)) for n, (index, name) in enumerate(stages)}


def distances(view: View) -> list[Distances]:
    """The distance matrix of each line that has one, on a colour scale shared by all."""
    domain = distance_domain(view)
    found = []
    for line, drawn in replays(view):
        measured = [replay for replay in drawn if any(_distance(draw) is not None for draw in replay.draws)]
        found += [_distances(view, line, measured, domain)] if measured else []
    return found


def distance_domain(view: View) -> tuple[float, float]:
    """Lowest and highest distance over all lines."""
    values = [w for _, drawn in replays(view) for r in drawn for d in r.draws if (w := _distance(d)) is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def distance_scale(view: View) -> tuple[str, str]:
    """Both ends of the colour scale."""
    low, high = domain = distance_domain(view)
    return show_distance(low, domain), show_distance(high, domain)


def show_distance(value: float, domain: tuple[float, float]) -> str:
    """A distance, with as many decimals as give the largest one three digits."""
    high = max(map(abs, domain))
    decimals = min(4, max(0, 2 - math.floor(math.log10(high)))) if high else 2
    return f"{value:.{decimals}f}".replace("-", MINUS)


def quotas(view: View) -> list[Quotas]:
    """The bars of each line that replays, all at one scale."""
    drawn = replays(view)
    widest = max((_rows(r.draws) for _, found in drawn for r in found), default=0) or 1
    titled = sum(len(r.draws) for _, found in drawn for r in found) <= MOST_TITLES
    return [_quotas(line, found, widest, titled) for line, found in drawn]


def _draws(generation: dict[str, Any]) -> list[dict[str, Any]]:
    draws: list[dict[str, Any]] = (generation.get("receipt") or {}).get("draws") or []
    return [draw for draw in draws if finite(draw.get("rows")) is not None]


def _distance(draw: dict[str, Any]) -> float | None:
    return finite(draw.get("distance"))


def _rows(draws: Sequence[dict[str, Any]]) -> int:
    return sum(draw["rows"] for draw in draws)


def _distances(view: View, line: Line, measured: list[Replay], domain: tuple[float, float]) -> Distances:
    named = {draw["stage"] for replay in measured for draw in replay.draws}
    columns = [origin for name, origin in origins(line).items() if name in named]
    heads = [Head(f"{o.number} {o.name}", o.name, view.stage_colour(o.name)) for o in columns]
    rows: list[Row] = [
        (replay.index, replay.stage, [_cell(replay, origin, domain) for origin in columns]) for replay in measured
    ]
    shown = picture(heads, rows, len(columns) * len(rows) * len(view.lines))
    return Distances(line, columns, heads, rows, _solvers(measured), len(columns) > 8, shown)


def _cell(replay: Replay, origin: Origin, domain: tuple[float, float]) -> Cell | None:
    """The cell of a stage and an earlier one; None at and above the diagonal."""
    if origin.number >= replay.index:
        return None
    draw = next((draw for draw in replay.draws if draw["stage"] == origin.name), {})
    distance, (low, high) = _distance(draw), domain
    between = f"{replay.stage} (generation {replay.index}) and {origin.name} (generation {origin.number})"
    if distance is None:
        return Cell(NOTHING, None, False, False, f"{between}: no distance", "far")
    shade = round((distance - low) / (high - low), 3) if high > low else 0.5
    title = f"{between}: W = {distance:.6g}, {whole(draw['rows'])} rows replayed"
    return Cell(show_distance(distance, domain), shade, False, False, title, "far")


def _solvers(measured: list[Replay]) -> str:
    """How the distances were computed; of several reasons for one solver the last stage's."""
    found: dict[str, tuple[str, int]] = {}
    for replay in measured:
        first = next(draw for draw in replay.draws if _distance(draw) is not None)
        name = str(first.get("solver") or "unknown")
        found[name] = (str(first.get("solver_because") or ""), found.get(name, ("", 0))[1] + 1)
    if len(found) == 1:
        [(name, (why, _)), *_] = found.items()
        return f"{name} ({why})" if why else name
    parts = [f"{name} for {n} stage{'s' * (n > 1)}" + f" ({why})" * bool(why) for name, (why, n) in found.items()]
    return "; ".join(parts)


def _quotas(line: Line, drawn: list[Replay], widest: int, titled: bool) -> Quotas:
    known = origins(line)
    kinds = dict.fromkeys(
        str(g["receipt"]["replay"]["kind"])
        for g in line.generations
        if _draws(g) and (g["receipt"].get("replay") or {}).get("kind")
    )
    shown = {draw["stage"] for replay in drawn for draw in replay.draws}
    return Quotas(
        line=line,
        kinds=", ".join(kinds),
        legend=[origin for name, origin in known.items() if name in shown],
        bars=[_bar(known, replay, widest, titled) for replay in drawn],
        spread=_range([s for replay in drawn if (s := _spread(replay.draws)) is not None]),
    )


def _bar(known: dict[str, Origin], replay: Replay, widest: int, titled: bool) -> Bar:
    parts, x = [], 0.0
    for draw in sorted(replay.draws, key=lambda draw: known[draw["stage"]].number if draw["stage"] in known else 0):
        origin = known.get(draw["stage"], Origin(0, draw["stage"], 0.0))
        width = 100 * draw["rows"] / widest
        title = f"{replay.stage}: {whole(draw['rows'])} rows of {origin.name}{_of(draw)}" if titled else ""
        number = str(origin.number or "")
        label = number if width >= DIGIT_PERCENT * len(number) else ""
        parts += [Part(origin, round(x, 2), round(width, 2), label, title)] if draw["rows"] else []
        x += width
    spread = _spread(replay.draws)
    return Bar(replay.index, replay.stage, whole(_rows(replay.draws)), "" if spread is None else _times(spread), parts)


def _of(draw: dict[str, Any]) -> str:
    """What the quota stood against: rows there are, and the distance."""
    there = f", of {whole(draw['of_rows'])}" if finite(draw.get("of_rows")) is not None else ""
    distance = _distance(draw)
    return there if distance is None else f"{there}, at distance {distance:.4g}"


def _spread(draws: Sequence[dict[str, Any]]) -> float | None:
    """Most rows over fewest; infinite where a stage gives none, None where there is nothing to compare."""
    rows = [draw["rows"] for draw in draws]
    if len(rows) < 2 or not any(rows):
        return None
    return max(rows) / min(rows) if min(rows) else math.inf


def _times(spread: float) -> str:
    return "∞" if math.isinf(spread) else f"{spread:.2f}×" if spread < 10 else f"{whole(spread)}×"


def _range(spreads: list[float]) -> str:
    """The spreads of all stages in words."""
    if not spreads:
        return ""
    low, high = _times(min(spreads)), _times(max(spreads))
    return low if low == high else f"{low} to {high}"
