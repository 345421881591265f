"""Generations found in a store: by the beginning of a key, and along their ancestry."""

from __future__ import annotations

from clray.errors import ModelError, StorageError
from clray.lineage.generation import Generation
from clray.lineage.store import Store

LISTED = 8


def by_key(store: Store, beginning: str) -> Generation:
    """The one generation of the storage whose key begins so; ModelError where there is none, or several."""
    names = [name for name in store.list("generations") if name.startswith(beginning)]
    found = [made for name in names[: LISTED + 1] if (made := store.generation(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"'{beginning}' begins several keys: {listed(found)}; give more of it")
    raise ModelError(
        f"no generation '{beginning}' in storage '{store.root}'; there are {listed(list(store.generations()))}"
    )


def listed(generations: list[Generation]) -> str:
    """The first few generations in words, for messages."""
    names = [f"{made.short} ({made.index}: {made.stage_name})" for made in generations]
    return ", ".join(names[:LISTED] + ["..."][: len(names) > LISTED]) or "none"


def ancestry(store: Store, made: Generation) -> list[Generation]:
    """The generation and all before it, its root first; StorageError where one of them is not there."""
    line = [made]
    while (parent := line[-1].parent) is not None:
        above = store.generation(parent)
        if above is None:
            raise StorageError(
                f"storage '{store.root}': generation {line[-1].short} comes from {parent[:10]}, whose record is gone. "
                f"Put generations/{parent}/generation.json back: MLflow holds it as an artifact of that generation's "
                "run."
            )
        line.append(above)
    return line[::-1]
