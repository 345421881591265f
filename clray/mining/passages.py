"""Sources of knowledge -> passages to search and to learn from, on Ray Data. Content-addressed and reused."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clray.data import records
from clray.data.manifest import Manifest, Part, write_part
from clray.data.sources import Opened
from clray.errors import DataError, ModelError
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining import near
from clray.mining.pieces import cut
from clray.mining.shelf import open_part
from clray.mining.words import words

VERSION = 1
BYTES_PER_PART = 1 << 26


@dataclass(frozen=True, kw_only=True)
class PassageSpec:
    """What a set of passages is made of; its digest is the set's address."""

    sources: tuple[Opened, ...]
    tokenizer: str
    tokenizer_digest: str
    tokens: int
    overlap: int

    @property
    def digest(self) -> str:
        """Address of the set."""
        marks = [source.digest for source in self.sources]
        return digest([VERSION, marks, self.tokenizer_digest, self.tokens, self.overlap])

    @property
    def num_parts(self) -> int:
        """Number of shard files, by the bytes of the sources alone."""
        return max(1, math.ceil(sum(source.num_bytes for source in self.sources) / BYTES_PER_PART))


def prepare(spec: PassageSpec, store: Store) -> Manifest:
    """The passages of the spec: taken from the store, or made on Ray Data and committed.

    Each row holds digest, title, text (as it stands in the source) and num_tokens. Rows follow their digests through
    all parts and stand once; of near-duplicates one stays. So the set does not depend on the order or layout of the
    files. Raises DataError with file and line at the first record without text.
    """
    folder = f"knowledge/{spec.digest}"
    known = Manifest.take(store, folder)
    if known:
        return known
    from clray.ray_session import run_dataset

    _check_tokenizer(spec, store)
    pieces = _pieces(spec, store)
    out = near.duplicates(pieces, store)
    keep = functools.partial(_keep, pieces=pieces, out=out, store=store, folder=folder)
    numbers = [{"part": number} for number in range(len(pieces.parts))]
    parts = run_dataset(
        lambda data: data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            keep, batch_size=1, batch_format="pyarrow"
        )
    )
    manifest = Manifest(
        digest=spec.digest,
        folder=folder,
        parts=tuple(sorted((Part(**part) for part in parts), key=lambda part: part.name)),
        provenance={**pieces.provenance, "near_duplicates": sum(map(len, out.values()))},
    )
    manifest.commit(store)
    store.delete(pieces.folder)
    return manifest


def _check_tokenizer(spec: PassageSpec, store: Store) -> None:
    tokenizer = records.tokenizer_here(spec.tokenizer, spec.tokenizer_digest, store)
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} does not say where its tokens stand in the text, so no passage "
            "can be cut; take a base model with a tokenizer.json"
        )


def _pieces(spec: PassageSpec, store: Store) -> Manifest:
    """The passages with near-duplicates among them; kept until the set is committed, so that a second try goes on."""
    folder = f"pieces/{spec.digest}"
    known = Manifest.take(store, folder)
    if known:
        return known
    from clray.ray_session import run_dataset

    split = functools.partial(_cut_batch, spec=spec, num_parts=spec.num_parts, store=store)
    write = functools.partial(_write_unique, store=store, folder=folder)
    parts = run_dataset(
        lambda data: (
            records.dataset(data, spec.sources, "knowledge")
            .map_batches(split, batch_size=256, batch_format="pyarrow")
            .groupby("part", num_partitions=spec.num_parts)
            .map_groups(write, batch_format="pyarrow")
        )
    )
    names = [source.provenance["source"] for source in spec.sources]
    if not parts:
        raise DataError(f"{', '.join(names)}: no passage is left to search; the texts hold no word. Take other sources")
    duplicates = sum(part.pop("duplicates") for part in parts)
    manifest = Manifest(
        digest=spec.digest,
        folder=folder,
        parts=tuple(sorted((Part(**part) for part in parts), key=lambda part: part.name)),
        provenance={
            "sources": [source.provenance for source in spec.sources],
            "tokenizer": spec.tokenizer_digest,
            "tokens": spec.tokens,
            "overlap": spec.overlap,
            "duplicates": duplicates,
        },
    )
    manifest.commit(store)
    return manifest


def _cut_batch(batch: pa.Table, spec: PassageSpec, num_parts: int, store: Store) -> pa.Table:
    """The passages of each record, with the part that each belongs to: parts hold ranges of digests."""
    tokenizer = records.tokenizer_here(spec.tokenizer, spec.tokenizer_digest, store)
    rows = []
    for record in map(json.loads, batch["record"].to_pylist()):
        title, text = record.get("title", ""), record["text"]
        for piece in cut(text, _offsets(tokenizer, text), spec.tokens, spec.overlap):
            passage = text[piece.start : piece.stop].strip()
            if words(passage):
                rows.append((digest([title, passage]), title, passage, piece.num_tokens))
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return pa.table(
        {
            "digest": pa.array(columns[0], pa.string()),
            "title": pa.array(columns[1], pa.string()),
            "text": pa.array(columns[2], pa.string()),
            "num_tokens": pa.array(columns[3], pa.int32()),
            "num_targets": pa.array(columns[3], pa.int32()),
            "part": pa.array([int(mark[:8], 16) * num_parts >> 32 for mark in columns[0]], pa.int32()),
        }
    )


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["offset_mapping"])


def _write_unique(table: pa.Table, store: Store, folder: str) -> pa.Table:
    """Writes one part, each digest once; returns its manifest entry and what was left out, as a row."""
    number = table["part"][0].as_py()
    table = table.sort_by([("digest", "ascending"), ("num_tokens", "ascending")]).drop_columns(["part"])
    names = table["digest"].to_pylist()
    kept = table.take([index for index in range(len(names)) if index == 0 or names[index] != names[index - 1]])
    part = write_part(store, folder, number, kept.combine_chunks())
    return pa.Table.from_pylist([{**dataclasses.asdict(part), "duplicates": len(names) - kept.num_rows}])


def _keep(batch: pa.Table, pieces: Manifest, out: dict[int, NDArray[np.int64]], store: Store, folder: str) -> pa.Table:
    """Writes the parts of the batch without the rows that are out; returns their manifest entries."""
    entries = []
    for number in batch["part"].to_pylist():
        table = open_part(store, pieces, number)
        stay = np.delete(np.arange(table.num_rows), out.get(number, []))
        entries.append(dataclasses.asdict(write_part(store, folder, number, table.take(pa.array(stay)))))
    return pa.Table.from_pylist(entries)
