"""What a check found: fine, to be looked at, or in the way; and what mends it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a check ended. Only FAIL stands in the way of a stream."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at, where, what was found, and what mends it (empty where all is well)."""

    name: str
    where: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """2 where a check failed, else 0."""
        return 2 if any(check.state is State.FAIL for check in self.checks) else 0

    def to_dict(self) -> dict[str, Any]:
        """The checks as plain values, for JSON."""
        return {
            "exit_code": self.exit_code,
            "checks": [{**dataclasses.asdict(check), "state": check.state.value} for check in self.checks],
        }

    def show(self) -> None:
        """Prints the checks as a table; nodes on which the same was found share a row."""
        from rich.table import Table

        from clray import printing

        table = Table(title="doctor", title_justify="left")
        for heading in ("", "check", "where", "found", "mend"):
            table.add_column(heading, overflow="fold")
        colours = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}
        for check, places in _together(self.checks).items():
            where = ", ".join(places) if len(places) <= 3 else f"{places[0]} and {len(places) - 1} more"
            table.add_row(f"[{colours[check.state]}]{check.state.value}[/]", check.name, where, check.found, check.mend)
        counts = {state: sum(check.state is state for check in self.checks) for state in State}
        console = printing.stdout()
        console.print(table)
        console.print(", ".join(f"{count} {state.value}" for state, count in counts.items()))


def _together(checks: tuple[Check, ...]) -> dict[Check, list[str]]:
    """Each finding once, with the places where it was made."""
    places: dict[Check, list[str]] = {}
    for check in checks:
        places.setdefault(dataclasses.replace(check, where=""), []).append(check.where)
    return places
