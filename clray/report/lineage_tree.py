"""The lineage as a tree: shared generations once, a lane for each line that branches off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.numbers import duration, short_count, shorten
from clray.report.view import Line, View

BOX_WIDTH, BOX_HEIGHT = 166, 84
ACROSS, DOWN = 200, 116
MARGIN, HEAD = 8, 30
MAX_COLUMNS = 6


@dataclass(frozen=True)
class Node:
    """One generation's box, its top left corner at (x, y)."""

    x: float
    y: float
    colour: str
    name: str
    index: int
    key: str
    kind: str
    work: str
    is_reused: bool
    is_rejected: bool
    title: str


@dataclass(frozen=True)
class Edge:
    """From a parent to its child; solid along the stream, dashed along a control."""

    path: str
    line: Line


@dataclass(frozen=True)
class LaneHead:
    """The name of the lines that end in a lane."""

    x: float
    y: float
    names: str
    line: Line


@dataclass(frozen=True)
class Tree:
    """The drawing: boxes, edges and lane names within `width` x `height`."""

    width: float
    height: float
    nodes: list[Node]
    edges: list[Edge]
    heads: list[LaneHead]


Places = dict[str, tuple[int, int]]


def lineage_tree(view: View) -> Tree:
    """The tree of all lines: left to right where it fits the page, else top to bottom."""
    places, owners = _places(view)
    accepted = {g["key"]: g for _, own in view.own_generations for g in own}
    records = {g["key"]: g for line in view.lines for g in line.rejected} | accepted
    num_lanes = 1 + max((lane for _, lane in places.values()), default=0)
    depth = 1 + max((index for index, _ in places.values()), default=0)
    upright = depth > MAX_COLUMNS
    spot = {key: _spot(index, lane, upright) for key, (index, lane) in places.items()}
    columns, rows = (num_lanes, depth) if upright else (depth, num_lanes)
    return Tree(
        width=columns * ACROSS - (ACROSS - BOX_WIDTH) + 2 * MARGIN,
        height=rows * DOWN + HEAD + MARGIN,
        nodes=[_node(view, records[key], *spot[key], key not in accepted) for key in spot],
        edges=[
            Edge(_curve(spot[parent], spot[key], upright), owners[key])
            for key in spot
            if (parent := records[key].get("parent")) in spot
        ],
        heads=_heads(view, places, upright),
    )


def _places(view: View) -> tuple[Places, dict[str, Line]]:
    """Depth and lane of each generation, and its line; a line with nothing of its own has no lane. Rejected generations
    have lanes below, as few as they fit into."""
    places: Places = {}
    owners: dict[str, Line] = {}
    lane = -1
    for line, own in view.own_generations:
        lane += bool(own)
        for generation in own:
            places[generation["key"]] = (generation["index"], lane)
            owners[generation["key"]] = line
    for line in view.lines:
        tries: dict[int, int] = {}
        for generation in line.rejected:
            if generation["key"] not in places:
                tries[generation["index"]] = tries.get(generation["index"], 0) + 1
                places[generation["key"]] = (generation["index"], lane + tries[generation["index"]])
                owners[generation["key"]] = line
        lane += max(tries.values(), default=0)
    return places, owners


def _spot(index: int, lane: int, upright: bool) -> tuple[float, float]:
    column, row = (lane, index) if upright else (index, lane)
    return MARGIN + column * ACROSS, HEAD + row * DOWN


def _curve(parent: tuple[float, float], child: tuple[float, float], upright: bool) -> str:
    (px, py), (cx, cy) = parent, child
    if upright:
        x1, y1, x2, y2 = px + BOX_WIDTH / 2, py + BOX_HEIGHT, cx + BOX_WIDTH / 2, cy
        middle = (y1 + y2) / 2
        return f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"
    x1, y1, x2, y2 = px + BOX_WIDTH, py + BOX_HEIGHT / 2, cx, cy + BOX_HEIGHT / 2
    middle = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"


def _heads(view: View, places: Places, upright: bool) -> list[LaneHead]:
    ends: dict[int, list[Line]] = {}
    for line in view.lines:
        if line.generations:
            ends.setdefault(places[line.generations[-1]["key"]][1], []).append(line)
    heads = []
    for lane, lines in ends.items():
        first = min(index for index, other in places.values() if other == lane)
        x, y = _spot(first, lane, upright)
        names = ", ".join(line.name for line in lines)
        heads.append(LaneHead(x, y - 9, shorten(names, 26), lines[0]))
    return heads


def _node(view: View, record: dict[str, Any], x: float, y: float, is_rejected: bool) -> Node:
    kind = record.get("stage", {}).get("kind") or ("base model" if not record["index"] else "")
    tokens, seconds = (record.get("training", {}).get(name) for name in ("tokens", "seconds"))
    work = [short_count(tokens, " tok")] * (tokens is not None) + [duration(seconds)] * (seconds is not None)
    reused = view.is_reused(record)
    version = f"v{record['version']}" if record.get("version") else ""
    state = "taken from the lineage, not trained again" if reused else ""
    title = [
        f"generation {record['index']}: {record['stage_name']}",
        kind,
        *work,
        state,
        "rejected by a gate" * is_rejected,
        f"key {record['key']}",
    ]
    return Node(
        x=x,
        y=y,
        colour=view.stage_colour(record["stage_name"]),
        name=shorten(record["stage_name"], 15),
        index=record["index"],
        key=" · ".join(filter(None, (record["key"][:10], version))),
        kind=", ".join(filter(None, (kind, "rejected" * is_rejected, "reused" * reused))),
        work=" · ".join(work),
        is_reused=reused,
        is_rejected=is_rejected,
        title=" · ".join(filter(None, title)),
    )
