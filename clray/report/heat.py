"""What heat maps share: cells, heads of columns, and the picture that stands for a map too large for a table."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_TABLE = 6000
"""Cells that the maps of one section show as tables; with its tooltip each takes a third of a kilobyte."""

NAMES_ACROSS, NAMES_DOWN = 40, 32
FAINTEST, AHEAD = 0.04, 0.45


@dataclass(frozen=True)
class Cell:
    """One score. `shade` is 0 for the worst score of the unit and 1 for the best; `hue` names the colour scale."""

    text: str
    shade: float | None
    is_taught: bool
    is_ahead: bool
    title: str
    hue: str = ""


@dataclass(frozen=True)
class Head:
    """The head of a column, with its tooltip and colour."""

    name: str
    title: str
    colour: str
    is_probe: bool = False


Row = tuple[int, str, list[Cell | None]]
"""A number, a name, and the cells; None where the map has nothing to show."""


@dataclass(frozen=True)
class Name:
    """A name beside the picture; `place` is the middle of its column or row, in percent."""

    text: str
    place: float


@dataclass(frozen=True)
class Picture:
    """A heat map of a pixel a cell.

    `layers` are a hue and a PNG each, as a data URI, through which as a mask the page's own colour is seen; `outlines`
    is an SVG path around the outlined cells, in units of cells. `notes` say what its colours mean beside the legend.
    """

    width: int
    height: int
    layers: list[tuple[str, str]]
    outlines: str
    across: list[Name]
    down: list[Name]
    notes: list[str]


def picture(heads: Sequence[Head], rows: Sequence[Row], cells_in_section: int) -> Picture | None:
    """The picture of a map, of a section whose maps have so many cells together; None where a table can show it."""
    if cells_in_section <= LARGEST_TABLE:
        return None
    grid = [cells for *_, cells in rows]
    there = [(x, y, cell) for y, cells in enumerate(grid) for x, cell in enumerate(cells) if cell is not None]
    hues = dict.fromkeys(cell.hue for *_, cell in there if cell.shade is not None)
    return Picture(
        width=len(heads),
        height=len(rows),
        layers=[(hue, _mask([[_strength(cell, hue) for cell in cells] for cells in grid])) for hue in hues],
        outlines="".join(f"M{x} {y}h1v1h-1z" for x, y, cell in there if cell.is_taught),
        across=_names([head.name for head in heads], NAMES_ACROSS),
        down=_names([f"{number} {name}" for number, name, _ in rows], NAMES_DOWN),
        notes=[
            *["paler: not taught yet"] * any(cell.is_ahead for *_, cell in there),
            *["grey: not measured"] * any(cell.shade is None for *_, cell in there),
        ],
    )


def _strength(cell: Cell | None, hue: str) -> float:
    """How full the colour of the cell is in the layer of the hue: as in a table."""
    if cell is None or cell.shade is None or cell.hue != hue:
        return 0.0
    return FAINTEST + (1 - FAINTEST) * cell.shade * (AHEAD if cell.is_ahead else 1.0)


def _mask(strengths: list[list[float]]) -> str:
    """A PNG of grey and alpha, as a data URI: black, and as opaque as the strengths say."""
    lines = b"".join(b"\0" + bytes(value for s in row for value in (0, round(255 * s))) for row in strengths)
    head = struct.pack(">IIBBBBB", len(strengths[0]), len(strengths), 8, 4, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _names(names: Sequence[str], most: int) -> list[Name]:
    """Every so many names, so that at most `most` are left."""
    step = -(-len(names) // most)
    return [Name(names[n], round(100 * (n + 0.5) / len(names), 2)) for n in range(0, len(names), step)]
