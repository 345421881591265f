"""What rounds of learning from mistakes brought, as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLUMNS = ("round", "line", "likeliest option", "gain", "written", "gain", "repaired", "AFR")


def show_evolution(outcome: dict[str, Any], console: Console) -> None:
    """Prints a table for each evolve stage of the outcome's JSON; nothing where no line has one."""
    for table in evolution_tables(outcome):
        console.print(table)


def evolution_tables(outcome: dict[str, Any]) -> list[Table]:
    """For each evolve stage its held-out questions by round and line, in the report's own numbers."""
    from clray.report.evolving import Evolution, Gain, Row, evolutions
    from clray.report.view import View

    def signed(gain: Gain) -> str:
        return f"{gain.text} ±{gain.error}" if gain.error else gain.text

    def cells(number: int, row: Row, evolution: Evolution) -> list[str]:
        (likelihood, gain), (written, other) = row.likelihood, row.written
        line = escape(f"{row.line.name} {row.note}".strip())
        found = [str(number), line, likelihood, signed(gain), written, signed(other), row.repaired[0], row.afr[0]]
        return [*found, signed(row.lead) if row.lead else ""] if evolution.lead else found

    tables = []
    for evolution in evolutions(View.of(outcome)):
        title = f"learning from mistakes: {escape(evolution.stage)}, held-out questions, in percent"
        table = Table(title=title, title_justify="left")
        for head in (*COLUMNS, *([evolution.lead[0]] if evolution.lead else [])):
            table.add_column(escape(head), justify="left" if head == "line" else "right")
        for number, rows in evolution.heldout:
            for row in rows:
                table.add_row(*cells(number, row, evolution))
            table.add_section()
        tables.append(table)
    return tables
