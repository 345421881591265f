"""The manifest of a set of shards: what lies in it, digested. Its being there makes the set exist."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from clray.errors import StorageError
from clray.lineage.store import Store

log = logging.getLogger("clray")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard file: rows, tokens, loss targets, and the SHA-256 of the file."""

    name: str
    rows: int
    tokens: int
    targets: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Shard files under one digest, in order, with where they came from."""

    digest: str
    folder: str
    parts: tuple[Part, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of all parts, padding not counted."""
        return sum(part.tokens for part in self.parts)

    @property
    def targets(self) -> int:
        """Tokens that a loss is taken on."""
        return sum(part.targets for part in self.parts)

    def summary(self) -> dict[str, Any]:
        """Digest and counts, for records."""
        return {"digest": self.digest, "rows": self.rows, "tokens": self.tokens, "targets": self.targets}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, store: Store, folder: str) -> Manifest | None:
        """The committed manifest of the folder, or None."""
        value = store.read_json(f"{folder}/manifest.json")
        return None if value is None else cls(**{**value, "parts": tuple(Part(**p) for p in value["parts"])})

    @classmethod
    def take(cls, store: Store, folder: str) -> Manifest | None:
        """The committed manifest of the folder, if its files are whole; a damaged set is named, and removed."""
        manifest = cls.load(store, folder)
        damaged = manifest.damaged(store) if manifest else []
        if damaged:
            log.warning("%s: %s is missing or altered; the set is made again", folder, ", ".join(damaged))
            store.delete(folder)
        return None if damaged else manifest

    def damaged(self, store: Store) -> list[str]:
        """Names of the files that are missing, or are not what was written."""
        return store.damaged(self.folder, {part.name: part.sha256 for part in self.parts})

    def commit(self, store: Store) -> None:
        """Makes the set exist."""
        store.write_json(f"{self.folder}/manifest.json", self.to_dict())


def arrow_bytes(table: pa.Table) -> bytes:
    """The table as an uncompressed Arrow file, which can be memory-mapped."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def write_part(store: Store, folder: str, number: int, table: pa.Table) -> Part:
    """Writes the table as an Arrow file; returns its entry."""
    content = arrow_bytes(table)
    name = f"part-{number:05d}.arrow"
    store.write_bytes(f"{folder}/{name}", content)
    return Part(
        name=name,
        rows=table.num_rows,
        tokens=int(np.sum(table["num_tokens"].to_numpy())) if table.num_rows else 0,
        targets=int(np.sum(table["num_targets"].to_numpy())) if table.num_rows else 0,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def read_parts(store: Store, manifest: Manifest, columns: list[str] | None = None) -> pa.Table:
    """The rows of all parts in order, memory-mapped from the local (or fetched) files.

    StorageError where a file is not what was written.
    """
    damaged = manifest.damaged(store)
    if damaged:
        raise StorageError(
            f"storage '{store.root}': {manifest.folder}/{damaged[0]} is missing or altered since it was written. "
            "Run the same command again: the set is then made again."
        )
    folder = store.fetch(manifest.folder)
    tables = []
    for part in manifest.parts:
        table = pa.ipc.open_file(pa.memory_map(str(folder / part.name))).read_all()
        tables.append(table.select(columns) if columns else table)
    return pa.concat_tables(tables)
