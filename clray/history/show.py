"""Everything about one generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.data.manifest import Manifest
from clray.history.archive import Archive
from clray.lineage import collected, notes, verdicts
from clray.lineage.catalogue import Entry
from clray.lineage.generation import Generation
from clray.lineage.store import Store


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A generation with all that is known of it.

    `records` are the record sets of its data with their rows; `weights` the bytes that lie there, or when they were
    collected; `registered` its version and run by stream; `moves` how aliases came to it; `gates` what gates said of
    it; `spec` the stream's YAML.
    """

    made: Generation
    aliases: list[str]
    registered: list[dict[str, str]]
    moves: list[dict[str, str]]
    children: list[Entry]
    records: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    weights: dict[str, Any]
    gates: list[dict[str, Any]]
    spec: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **self.made.to_dict(),
            "aliases": self.aliases,
            "registered": self.registered,
            "moves": self.moves,
            "children": [{"key": child.key, "stage": child.stage, "index": child.index} for child in self.children],
            "records": self.records,
            "scores": self.scores,
            "weights": self.weights,
            "gates": self.gates,
            "spec": self.spec,
        }


def show(archive: Archive, wanted: str) -> Portrait:
    """Everything about the generation that `wanted` names."""
    store, made = archive.store, archive.find(wanted)
    return Portrait(
        made=made,
        aliases=archive.names.get(made.key, []),
        registered=_registered(archive, made.key),
        moves=[move for book in archive.registries for move in book.moves(made.key)],
        children=archive.children.get(made.key, []),
        records=_records(store, made),
        scores=scores_of(store, made.key),
        weights=_weights(store, made.key),
        gates=verdicts.standing(store, made.key),
        spec=notes.spec_of(store, made.run["stream"], made.run["spec"]) if made.run.get("spec") else None,
    )


def scores_of(store: Store, key: str) -> list[dict[str, Any]]:
    """The generation's cells of the score matrix, by task: `digest`, task, scorer, metrics."""
    names = [name.removesuffix(".json") for name in store.list(f"scores/{key}")]
    cells = [{"digest": name, **cell} for name in names if (cell := store.score(key, name))]
    return sorted(cells, key=lambda cell: (cell["task"], cell["digest"]))


def size_of(store: Store, folder: str) -> int:
    """Bytes of all files below the folder; 0 where there is none."""
    return sum(info.size for info in store.files(folder))


def _registered(archive: Archive, key: str) -> list[dict[str, str]]:
    return [
        {"stream": stream, "version": str(version.version), "run_id": version.run_id}
        for book in archive.registries
        for stream, version in book.versions(key).items()
    ]


def _records(store: Store, made: Generation) -> list[dict[str, Any]]:
    """Each origin of the data: stage, digest and rows of its record set, and how many were shown."""
    origins, found = made.data.get("origins", []), []
    for origin, digest in zip(origins, made.data.get("records", []), strict=False):
        manifest = Manifest.load(store, f"records/{digest}")
        found.append({**origin, "records": digest, "of_rows": manifest.rows if manifest else None})
    return found


def _weights(store: Store, key: str) -> dict[str, Any]:
    gone = collected.note(store, key)
    if gone:
        return {"there": False, **gone}
    return {"there": True, "bytes": size_of(store, f"generations/{key}/weights")}
