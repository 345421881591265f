"""Which generations trials of sweeps ended in."""

from __future__ import annotations

from collections import defaultdict

from clray.lineage.store import Store
from clray.search.journal import FOLDER, Journal


def trials_of(store: Store) -> dict[str, list[str]]:
    """Key -> the trials that ended in the generation, each as the sweep's name and the trial's number."""
    found = defaultdict(list)
    for sweep in store.list(FOLDER):
        for state in store.list(f"{FOLDER}/{sweep}"):
            for entry in Journal.read(store, f"{FOLDER}/{sweep}/{state}").entries.values():
                if entry.reports:
                    found[entry.last["keys"][-1]].append(f"{sweep} {entry.number}")
    return found
