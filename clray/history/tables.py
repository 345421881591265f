"""Tables and figures on a terminal, for the commands over the lineage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from clray.report.numbers import setting


def in_figures(value: Any) -> str:
    """A number with separators or four digits; anything else as a setting."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else setting(value)


def print_pairs(console: Console, title: str, values: dict[str, str]) -> None:
    """Prints a name and its value a line; nothing where there are none."""
    if not values:
        return
    table = Table(title=title or None, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, _plain(value))
    console.print(table)


def print_table(
    console: Console, title: str, heads: Iterable[str], rows: list[Any], right: tuple[int, ...] = ()
) -> None:
    """Prints the rows below their heads, columns `right` ranged right; nothing where there are none."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(_plain(head), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))
    console.print(table)


def _plain(text: str) -> str:
    """The text without a meaning to rich."""
    return text.replace("[", "\\[")
