"""What a sweep remembers: of each trial its settings, every report, and how it ended. The driver alone writes.

<folder>/trials/<rung>-<number>.json    each written whole, before anything is done upon it

A sweep that is run again takes what stands here as it is: ended trials are not run again, nor decisions taken again.
What an unfinished trial has trained lies in the store, by key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clray.lineage.store import Store
from clray.search.space import Settings

FOLDER = "sweeps"
"""Where sweeps lie in a store: <name>/<digest>."""

RUNNING, COMPLETE, STOPPED, FAILED = "running", "complete", "stopped", "failed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial at one rung. `reports` are the states after its stages, the first at first; each has its place in the
    order of all reports of the sweep (`at`). `why` says why it was stopped, or what failed."""

    rung: int
    number: int
    settings: Settings
    mark: str
    status: str = RUNNING
    reports: tuple[dict[str, Any], ...] = ()
    why: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.status != RUNNING

    @property
    def stage(self) -> int:
        """How many stages it has reported."""
        return int(self.reports[-1]["stage"]) if self.reports else 0

    @property
    def last(self) -> dict[str, Any]:
        """Its last report."""
        return self.reports[-1]


class Unkept:
    """Base of what is handed to Tune, which pickles it beside its own state: a sweep goes on from its journal alone, so
    there a plain object stands in its place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()


@dataclass
class Journal:
    """The entries of a sweep by rung and number, kept below `folder` of the store."""

    store: Store
    folder: str
    entries: dict[tuple[int, int], Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store, folder: str) -> Journal:
        """The journal as it lies in the store; an empty one where there is none."""
        journal = cls(store, folder)
        for name in store.list(f"{folder}/trials"):
            value = store.read_json(f"{folder}/trials/{name}") if name.endswith(".json") else None
            if value:
                entry = Entry(**{**value, "reports": tuple(value["reports"])})
                journal.entries[entry.rung, entry.number] = entry
        return journal

    def begin(self, entry: Entry) -> Entry:
        """The entry as it stands, where it is of the same settings and data, else the new one, which then stands.

        Settings have the order of the new one, which is the space's: files are written with sorted names.
        """
        there = self.entries.get((entry.rung, entry.number))
        if there is not None and there.mark == entry.mark and there.settings == entry.settings:
            there = self.entries[entry.rung, entry.number] = replace(there, settings=entry.settings)
            return there
        return self._keep(entry)

    def report(self, entry: Entry, report: dict[str, Any], status: str, why: str = "") -> Entry:
        """Keeps one more report of the entry, and what was decided upon it."""
        at = 1 + max((r["at"] for e in self.entries.values() for r in e.reports), default=-1)
        plain = {name: value for name, value in report.items() if name != "said"}
        return self._keep(replace(entry, reports=(*entry.reports, {**plain, "at": at}), status=status, why=why))

    def fail(self, entry: Entry, why: str) -> Entry:
        """Keeps that the entry failed for good."""
        return self._keep(replace(entry, status=FAILED, why=why))

    def forget(self, status: str) -> None:
        """Forgets how entries of that status ended: they are run again."""
        for entry in list(self.entries.values()):
            if entry.status == status:
                self._keep(replace(entry, status=RUNNING, why=""))

    def of_rung(self, rung: int) -> list[Entry]:
        """The entries of the rung by number."""
        return [entry for (r, _), entry in sorted(self.entries.items()) if r == rung]

    def in_order(self, rung: int) -> list[tuple[Entry, dict[str, Any]]]:
        """All reports of the rung in the order in which they came, each with its entry."""
        found = [(entry, report) for entry in self.of_rung(rung) for report in entry.reports]
        return sorted(found, key=lambda pair: pair[1]["at"])

    def _keep(self, entry: Entry) -> Entry:
        self.store.write_json(f"{self.folder}/trials/{entry.rung}-{entry.number:04d}.json", asdict(entry))
        self.entries[entry.rung, entry.number] = entry
        return entry
