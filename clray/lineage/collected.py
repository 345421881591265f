"""Which generations have no weights any more: `clray gc` took them, and their records stayed.

collected/<key>.json    when, and how many bytes; written before anything is deleted
"""

from __future__ import annotations

from typing import Any

from clray.lineage.store import Store

FOLDER = "collected"


def all_of(store: Store) -> set[str]:
    """Keys of the generations whose weights were collected."""
    return {name.removesuffix(".json") for name in store.list(FOLDER) if name.endswith(".json")}


def note(store: Store, key: str) -> dict[str, Any] | None:
    """When the weights of the generation were collected, and how many bytes they were; None where they are there."""
    found: dict[str, Any] | None = store.read_json(f"{FOLDER}/{key}.json")
    return found


def mark(store: Store, key: str, when: str, num_bytes: int) -> None:
    """Says that the weights of the generation are gone from now on."""
    store.write_json(f"{FOLDER}/{key}.json", {"collected": when, "bytes": num_bytes})


def unmark(store: Store, key: str) -> None:
    """Says that the weights of the generation are there again."""
    store.delete(f"{FOLDER}/{key}.json")
