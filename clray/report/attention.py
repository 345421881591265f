"""What a shared attention selects: a heat map of tasks (rows) by LoRA blocks (columns)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.heat import Cell, Head
from clray.report.numbers import NOTHING, Unit, finite
from clray.report.view import Line, View

SHARE = Unit("share")
TaskRow = tuple[str, str, list[Cell]]
"""Number of the generation that made the task's own block ("" without one), the task, its cells."""


@dataclass(frozen=True)
class Attention:
    """The heat map of one line's last generation. `others` are the rows of tasks without a block of their own."""

    line: Line
    heads: list[Head]
    rows: list[TaskRow]
    others: list[TaskRow]
    accuracy: str
    is_wide: bool
    picture: None = None


def attentions(view: View) -> list[Attention]:
    """The heat map of each line whose last generation selects."""
    return [_attention(view, line, line.selection) for line in view.lines if line.selection]


def _attention(view: View, line: Line, selection: dict[str, Any]) -> Attention:
    numbers = {g["stage_name"]: str(g["index"]) for g in line.generations}
    columns = [(numbers.get(name, ""), name) for name in selection["blocks"]]
    taught = [(own, n) for n, own in enumerate(selection["own"]) if own is not None]
    others = [n for n, own in enumerate(selection["own"]) if own is None]
    accuracy = finite(selection.get("accuracy"))
    return Attention(
        line=line,
        heads=[Head(f"{number} {name}".strip(), name, view.stage_colour(name)) for number, name in columns],
        rows=[_row(selection, n, columns) for _, n in sorted(taught)],
        others=[_row(selection, n, columns) for n in others],
        accuracy="" if accuracy is None else _percent(accuracy),
        is_wide=len(columns) > 8,
    )


def _row(selection: dict[str, Any], number: int, columns: list[tuple[str, str]]) -> TaskRow:
    task, own = selection["tasks"][number], selection["own"][number]
    values = zip(columns, selection["attention"][number], selection["heaviest"][number], strict=True)
    cells = [_cell(task, block, mean, share, n == own) for n, (block, mean, share) in enumerate(values)]
    return "" if own is None else columns[own][0], task, cells


def _cell(task: str, block: tuple[str, str], weight: Any, share: Any, is_own: bool) -> Cell:
    mean = finite(weight)
    where = f"{task} on block {' '.join(filter(None, block))}{', its own' if is_own else ''}"
    if mean is None:
        return Cell(NOTHING, None, is_own, False, f"{where}: no weight", "weight")
    title = f"{where}: mean weight {mean:.3f}, the heaviest block of {_percent(share)} of the examples"
    hue = "weight nil" if f"{mean:.2f}" == "0.00" else "weight"
    return Cell(f"{mean:.2f}", round(min(1.0, max(0.0, mean)), 3), is_own, False, title, hue)


def _percent(share: Any) -> str:
    return SHARE.show(share) + SHARE.suffix
