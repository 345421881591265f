"""Which examples a generation was trained on: digests of its own records and of those shown again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clray.data.manifest import Manifest
from clray.lineage.generation import Generation
from clray.lineage.store import Store


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The distinct examples of a generation's data by origin; None where a record set is not in the store any more."""

    own: frozenset[str] | None
    replayed: frozenset[str] | None


def shown(store: Store, made: Generation) -> Shown:
    """What the generation was trained on."""
    records = made.data.get("records", [])
    own = _digests(store, records[0]) if records else []
    replayed: set[str] | None = set()
    for draw in made.receipt.get("draws", []):
        names = _digests(store, draw["records"]) if draw["rows"] else []
        if names is None or replayed is None:
            replayed = None
        else:
            replayed |= {names[row] for row in draw["row_numbers"]}
    return Shown(
        own=None if own is None else frozenset(own), replayed=None if replayed is None else frozenset(replayed)
    )


def _digests(store: Store, digest: str) -> list[str] | None:
    """The digest of each record of the set, in the order by which draws number them; None where it is not there."""
    manifest = Manifest.load(store, f"records/{digest}")
    if manifest is None:
        return None
    folder = store.fetch(manifest.folder)
    names: list[str] = []
    for part in manifest.parts:
        path = folder / part.name
        if not path.is_file():
            return None
        names += pa.ipc.open_file(pa.memory_map(str(path))).read_all()["digest"].to_pylist()
    return names


def compared(before: frozenset[str] | None, after: frozenset[str] | None) -> dict[str, Any] | None:
    """Examples of both, of the second alone (`rows_in`) and of the first alone (`rows_out`); None where unknown."""
    if before is None or after is None:
        return None
    return {"both": len(before & after), "rows_in": len(after - before), "rows_out": len(before - after)}
