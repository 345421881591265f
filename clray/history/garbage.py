"""Weights that nothing needs, and their removal. Records, scores, outputs and data stay, and the weights can be made
again from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from clray.errors import StorageError
from clray.history.archive import Archive
from clray.history.show import size_of
from clray.lineage import collected, lease
from clray.lineage.catalogue import Entry
from clray.lineage.clock import now
from clray.lineage.store import Store
from clray.lineage.verdicts import REJECTED
from clray.spec.task import LOWER_IS_BETTER

FOLDERS = ("weights", "optimiser", "ewc")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A generation whose weights lie there: their bytes, and why they are kept; no reason: nothing needs them."""

    entry: Entry
    bytes: int
    reasons: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self.entry), "bytes": self.bytes, "reasons": self.reasons}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is kept, what nothing needs, and whether that was removed."""

    kept: list[Item]
    free: list[Item]
    deleted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "kept": [item.to_dict() for item in self.kept],
            "free": [item.to_dict() for item in self.free],
            "bytes": sum(item.bytes for item in self.free),
            "deleted": self.deleted,
        }


def sweep(archive: Archive, keep: Iterable[str] = (), delete: bool = False) -> Sweep:
    """What of the weights nothing needs; with `delete` it is removed, which the store remembers.

    Kept are: roots, the newest generation of each line, the best of each task, those with an alias, those named in
    `keep`, and the complete weights below every adapter that is kept. What a gate rejected counts as no newest and no
    best. StorageError where a generation is being built.
    """
    store = archive.store
    reasons = reasons_to_keep(archive.entries, archive.names, [archive.find(each).key for each in keep])
    items = [
        Item(
            entry=entry,
            bytes=sum(size_of(store, f"generations/{entry.key}/{folder}") for folder in FOLDERS),
            reasons=reasons.get(entry.key, []),
        )
        for entry in archive.entries
        if not entry.gone
    ]
    free = [item for item in items if not item.reasons]
    if delete and free:
        remove(store, free)
    return Sweep(kept=[item for item in items if item.reasons], free=free, deleted=delete)


def reasons_to_keep(
    entries: list[Entry], aliases: dict[str, list[str]], keep: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Key -> why its weights are needed. Pure: of the entries, their aliases and the keys to keep alone."""
    known = {entry.key: entry for entry in entries}
    passed = [entry for entry in entries if entry.status != REJECTED]
    parents = {entry.parent for entry in passed}
    found: dict[str, list[str]] = {}

    def add(key: str, why: str) -> None:
        found.setdefault(key, []).append(why)

    for entry in entries:
        if entry.parent is None:
            add(entry.key, "root")
        elif entry.kind == "generator" or entry.status == REJECTED:
            continue  # what a generator wrote lies in the store; nothing stands on what was rejected
        elif entry.key not in parents:
            add(entry.key, "newest of its line")
        for alias in aliases.get(entry.key, []):
            add(entry.key, f"alias {alias}")
    for key, tasks in _best(passed).items():
        add(key, f"best on {', '.join(sorted(tasks))}")
    for key in keep:
        add(key, "asked for")
    for key in list(found):
        entry = known[key]
        while entry.base != entry.key and entry.base in known:
            below = known[entry.base]
            if not any(why.startswith("below") for why in found.get(below.key, [])):
                add(below.key, f"below the adapter {entry.short}")
            entry = below
    return found


def _best(entries: list[Entry]) -> dict[str, set[str]]:
    """Key -> the tasks on which no other generation whose weights are there is better; of equals the oldest."""
    top: dict[str, tuple[float, str, str]] = {}
    for entry in entries:
        for digest, (task, metric, score) in entry.scores.items():
            value = -score if metric in LOWER_IS_BETTER else score
            if not entry.gone and (digest not in top or value > top[digest][0]):
                top[digest] = (value, entry.key, task)
    found: dict[str, set[str]] = {}
    for _, key, task in top.values():
        found.setdefault(key, set()).add(task)
    return found


def remove(store: Store, free: Iterable[Item]) -> None:
    """Says of each that its weights are gone, then deletes them: a driver that reads meanwhile is told why.

    StorageError where a generation is being built.
    """
    builders = lease.builders(store)
    if builders:
        raise StorageError(
            f"storage '{store.root}' is in use: {builders[0]}. Its parent's weights may be needed; run clray gc again "
            "when nothing is built"
        )
    for item in free:
        collected.mark(store, item.entry.key, now(), item.bytes)
        for folder in FOLDERS:
            store.delete(f"generations/{item.entry.key}/{folder}")
