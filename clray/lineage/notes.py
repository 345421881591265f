"""What a store remembers of the streams that wrote to it: their files, and where they are tracked.

streams/<name>/<digest>.json    {"name", "tracking", "spec"}: a stream or control as YAML
"""

from __future__ import annotations

from typing import Any

from clray.lineage.key import digest
from clray.lineage.store import Store

FOLDER = "streams"


def mark(spec_yaml: str) -> str:
    """Digest by which a generation's record names the stream that made it."""
    return digest(spec_yaml, 16)


def keep(store: Store, name: str, spec_yaml: str, tracking: str | None) -> None:
    """Keeps the stream's file. `tracking` is its tracking URI without credentials, None for the store's own file."""
    place, value = f"{FOLDER}/{name}/{mark(spec_yaml)}.json", {"name": name, "tracking": tracking, "spec": spec_yaml}
    if store.read_json(place) != value:
        store.write_json(place, value)


def spec_of(store: Store, name: str, spec: str) -> str | None:
    """The stream's YAML of that name and digest, or None where it was not kept."""
    found = store.read_json(f"{FOLDER}/{name}/{spec}.json")
    return str(found["spec"]) if found else None


def tracked_at(store: Store) -> list[str | None]:
    """The tracking URIs that streams of this store were recorded at, each once; None for the store's own file."""
    names = [f"{FOLDER}/{stream}/{file}" for stream in store.list(FOLDER) for file in store.list(f"{FOLDER}/{stream}")]
    values: list[dict[str, Any]] = [note for name in names if (note := store.read_json(name))]
    return list(dict.fromkeys(value["tracking"] for value in values))
