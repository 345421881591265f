"""What a person sees of a sweep: its plan, a live table of its trials, and the table of its result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from clray import printing
from clray.report import sweep as page
from clray.search.journal import FAILED, Entry
from clray.search.planning import SweepPlan
from clray.search.proposing import names_at, score_of
from clray.search.space import described

SHOWN = 30
"""Rows of the live table: those that changed last."""


class SweepTable:
    """A watcher of a sweep: a live table on a terminal, a line for each report elsewhere; both on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._live = Live(console=self.console, refresh_per_second=2, transient=True)
        self._started = time.monotonic()
        self._plan: SweepPlan | None = None
        self._entries: dict[tuple[int, int], Entry] = {}

    def __enter__(self) -> SweepTable:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line, after the seconds since the start."""
        self.console.print(f"{time.monotonic() - self._started:6.1f} s  {text}", markup=False, soft_wrap=True)

    def begins(self, plan: SweepPlan, entries: Sequence[Entry]) -> None:
        """Says what the sweep comes to, and what of it has ended already."""
        self._plan = plan
        self._entries = {(entry.rung, entry.number): entry for entry in entries}
        ended = sum(entry.ended for entry in entries)
        self.say(plan_line(plan.to_dict()) + (f"; {ended} trials have ended before" if ended else ""))

    def reported(self, entry: Entry) -> None:
        """Shows the trial as it is now."""
        self._entries.pop((entry.rung, entry.number), None)
        self._entries[entry.rung, entry.number] = entry
        if self.console.is_terminal:
            self._live.update(self._table())
        else:
            self.say(f"trial {entry.number} ({described(entry.settings)}): {self._words(entry)}")

    def _words(self, entry: Entry) -> str:
        if entry.status == FAILED:
            return f"failed: {entry.why}"
        parts = (f"stage {entry.stage} of {entry.last['of']}", self._value(entry), entry.why or entry.status)
        return ", ".join(part for part in parts if part)

    def _value(self, entry: Entry) -> str:
        assert self._plan is not None
        sweep = self._plan.sweep
        score = score_of(sweep, entry)
        if score is not None:
            return ", ".join(f"{o.text} {v:.4g}" for o, v in zip(sweep.objectives, score.values, strict=True))
        found = names_at(sweep, entry, entry.last) if entry.reports else {}
        names = [name for name in sweep.objectives[0].expression.names if name in found]
        return ", ".join(f"{name} {found[name]:.4g}" for name in names)

    def _table(self) -> Table:
        assert self._plan is not None
        ended = sum(entry.ended for entry in self._entries.values())
        table = Table(title=f"{ended} of {self._plan.count} trials ended", title_justify="left")
        for head in ("trial", "settings", "stages", "objectives so far", "state"):
            table.add_column(head, overflow="fold")
        for entry in list(self._entries.values())[-SHOWN:]:
            stages = f"{entry.stage}/{entry.last['of']}" if entry.reports else "–"
            table.add_row(str(entry.number), described(entry.settings), stages, self._value(entry), entry.status)
        return table


def plan_line(plan: dict[str, Any]) -> str:
    """What the sweep comes to, in a sentence."""
    found, most = plan["trainings"], "at most " if plan["trainings"]["at_most"] else ""
    return (
        f"{plan['trials']} trials of {plan['stages']} stages: {most}{found['needed']} stage trainings in place of "
        f"{found['alone']} ({found['saved']} saved by sharing), {found['there']} in the store, {found['left']} to do; "
        f"{plan['room']}"
    )


def show_plan(plan: dict[str, Any]) -> None:
    """Prints the trials that are known beforehand in the order in which they run, and what they come to."""
    console = printing.stdout()
    if plan["settings"]:
        table = Table(title=f"plan of sweep {plan['sweep']}", title_justify="left")
        for field in ("", *plan["settings"][0]):
            table.add_column(field, justify="right", overflow="fold")
        for number, settings in enumerate(plan["settings"], 1):
            table.add_row(str(number), *(page.label(value) for value in settings.values()))
        console.print(table)
    console.print(plan_line(plan), markup=False, soft_wrap=True)


def show_result(result: dict[str, Any]) -> None:
    """Prints the trials, the best first, and what the sweep took."""
    console = printing.stdout()
    table = Table(title=f"sweep {result['sweep']['name']}", title_justify="left")
    for head in page.heads(result):
        table.add_column(head, justify="left" if head == "state" else "right", overflow="fold")
    for trial in result["trials"]:
        table.add_row(*page.row(result, trial))
    console.print(table)
    for trial in result["trials"]:
        if trial["why"]:
            console.print(f"trial {trial['number']}: {trial['why']}", markup=False, soft_wrap=True)
    found = result["trainings"]
    console.print(
        f"{found['needed']} stage trainings in place of {found['alone']}, {found['now']} of them now; "
        f"{result['seconds']:.1f} s"
        + ("" if result["finished"] else "; not finished: run it again to go on")
        + ("" if result["best"] is not None else "; no complete trial keeps the constraints"),
        markup=False,
    )
