"""A store and its aliases, opened for questions: what all commands over the lineage begin with."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from clray.errors import ModelError, StorageError
from clray.lineage.catalogue import Entry, entries
from clray.lineage.finding import ancestry, by_key
from clray.lineage.generation import Generation
from clray.lineage.ledger import NEWEST
from clray.lineage.registry import Alias, Registry, registries
from clray.lineage.store import Store

SHORTEST = 4
"""Digits of a key that stand for a generation, at the least."""


class Archive:
    """The generations of a storage folder and, where it is asked for, what MLflow knows of them.

    Raises StorageError where there is no such storage. `tracking` is a URI, "none" to do without MLflow, or None for
    where the streams were recorded.
    """

    def __init__(self, storage: str, tracking: str | None = None) -> None:
        self.store = Store(storage)
        self._tracking = tracking
        if not self.store.list("generations"):
            raise StorageError(
                f"storage '{self.store.root}' holds no generation. Give --storage PATH, as `storage` stands in the "
                "stream's file, or run a stream first: clray run"
            )

    @cached_property
    def entries(self) -> list[Entry]:
        """All generations in brief, oldest first."""
        return entries(self.store)

    @cached_property
    def children(self) -> dict[str | None, list[Entry]]:
        """Key -> the generations that stand on it, oldest first; the roots below None."""
        known = {entry.key for entry in self.entries}
        found = defaultdict(list)
        for entry in self.entries:
            found[entry.parent if entry.parent in known else None].append(entry)
        return found

    @cached_property
    def registries(self) -> list[Registry]:
        """Where the streams of this store are registered."""
        return registries(self.store, self._tracking)

    @cached_property
    def aliases(self) -> list[Alias]:
        """The aliases of this store's generations."""
        there = {name for name in self.store.list("generations")}
        return [alias for book in self.registries for alias in book.aliases() if alias.key in there]

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Key -> its aliases; with the stream's name before where several streams have the same one."""
        count: dict[str, int] = defaultdict(int)
        for each in self.aliases:
            count[each.alias] += 1
        found = defaultdict(list)
        for each in self.aliases:
            found[each.key].append(each.alias if count[each.alias] == 1 else f"{each.stream}@{each.alias}")
        return found

    def find(self, wanted: str) -> Generation:
        """The generation that `wanted` names: the beginning of its key, an alias, or STREAM@ALIAS.

        ModelError where there is none or several, with what there is.
        """
        if len(wanted) >= SHORTEST and any(key.startswith(wanted) for key in self.store.list("generations")):
            return by_key(self.store, wanted)
        stream, _, name = wanted.rpartition("@")
        found = {each.key for each in self.aliases if each.alias == name and stream in ("", each.stream)}
        if len(found) == 1:
            return by_key(self.store, found.pop())
        known = ", ".join(sorted(alias for names in self.names.values() for alias in names)) or "none"
        if found:
            raise ModelError(f"several streams have an alias '{wanted}': {known}; say which, as STREAM@{name}")
        raise ModelError(
            f"no generation '{wanted}' in storage '{self.store.root}': it begins no key ({SHORTEST} digits or more) "
            f"and is no alias; aliases are {known}. See them all with: clray log"
        )

    def newest(self) -> Generation:
        """The newest generation of the main line by its alias, of several streams the one made last; without MLflow the
        one made last."""
        named = {each.key for each in self.aliases if each.alias == NEWEST}
        last = [entry for entry in self.entries if entry.key in named] or self.entries
        return by_key(self.store, last[-1].key)

    def line(self, wanted: str | None) -> list[Generation]:
        """The generation that `wanted` names, the newest one without it, and all before it, its root first."""
        return ancestry(self.store, self.find(wanted) if wanted else self.newest())
