"""The table of evolve rounds on the terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "report"))

from evolving_outcomes import make_evolved
from report_outcomes import make_outcome

from clray.console_evolving import evolution_tables, show_evolution


def shown(outcome: dict) -> str:
    """What is printed of an outcome."""
    sink = io.StringIO()
    show_evolution(outcome, Console(file=sink, width=140, highlight=False))
    return sink.getvalue()


def test_a_row_for_each_round_and_line() -> None:
    """The same numbers as in the report, worked out there."""
    text = shown(make_evolved())
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in text.splitlines() if row.startswith("│")]
    assert [row[:2] for row in rows] == [
        [str(n), name] for n in (1, 2) for name in ("stream", "format_only", "random_documents")
    ]
    assert rows[0][2:4] == ["40.0 → 51.0", "+11.0 ±4.2"] and rows[0][6:] == ["25.0%", "10.0%", ""]
    assert rows[1][2:4] == ["40.0 → 45.0", "+5.0 ±3.6"] and rows[1][-1] == "+6.0 ±5.5"
    assert "stream ahead" in text


def test_without_controls_there_is_no_lead() -> None:
    [table] = evolution_tables(make_evolved(controls=()))
    assert len(table.columns) == 8 and "ahead" not in shown(make_evolved(controls=()))


def test_nothing_without_rounds() -> None:
    assert shown(make_outcome()) == ""


def test_names_are_no_markup() -> None:
    assert "[red]x[/red]" in shown(make_evolved(controls=("[red]x[/red]",)))
