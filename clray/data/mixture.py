"""What a stage really trains on: its own records plus replayed ones, packed into shards on Ray Data."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clray.data.manifest import Manifest, Part, read_parts, write_part
from clray.data.packing import Piece, best_fit_decreasing, cut
from clray.data.shuffle import by_part
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.replay.draw import Draw, Index

VERSION = 1
ROWS_PER_PART, TOKENS_PER_PART = 65536, 1 << 22
ROWS_PER_TABLE = 4096
COLUMNS = ["digest", "ids", "targets", "num_tokens", "num_targets"]
CHOSEN = "num_chosen"
"""Column of preference pairs: the tokens of the first half, which is a segment of its own."""


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """The record sets of a mixture: the stage's own first, then each earlier stage with its draw."""

    stage: str
    own: Manifest
    past: tuple[Manifest, ...]
    draws: tuple[Draw, ...]
    sequence_length: int

    @property
    def digest(self) -> str:
        """Address of the mixture: content and draws, not names; and how many parts its tokens make, where several."""
        draws = [[draw.origin.digest, draw.rows.tolist()] for draw in self.draws]
        parts = [self.num_parts] if self.tokens > TOKENS_PER_PART else []
        return digest([VERSION, self.own.digest, draws, self.sequence_length, *parts])

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return self.own.tokens + sum(int(draw.origin.tokens[draw.rows].sum()) for draw in self.draws)

    @property
    def num_parts(self) -> int:
        """Number of shard files, by the examples alone; one task packs one of them."""
        rows = self.own.rows + sum(len(draw.rows) for draw in self.draws)
        return max(1, math.ceil(rows / ROWS_PER_PART), math.ceil(self.tokens / TOKENS_PER_PART))

    @property
    def names(self) -> list[str]:
        """Stage of each origin; origin 0 is the stage itself."""
        return [self.stage, *(draw.origin.name for draw in self.draws)]


def index_of(store: Store, name: str, manifest: Manifest, instructions: bool = False) -> Index:
    """What a replay draw needs to know of a record set; the texts of `instructions` only where they are asked for."""
    table = read_parts(store, manifest, ["num_tokens", "instruction"] if instructions else ["num_tokens"])
    index = Index(name=name, digest=manifest.digest, tokens=table["num_tokens"].to_numpy().astype(np.int64))
    if not instructions:
        return index
    column = table["instruction"].unify_dictionaries().combine_chunks()
    texts, numbers = column.dictionary.to_pylist(), column.indices.to_numpy()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    rank = np.empty(len(texts), dtype=np.int32)
    rank[order] = np.arange(len(texts))
    return dataclasses.replace(index, instructions=tuple(texts[i] for i in order), instruction_of=rank[numbers])


def prepare(spec: MixtureSpec, store: Store) -> Manifest:
    """The packed shards of the mixture: taken from the store, or made on Ray Data and committed.

    Each row holds the ids and targets of one packed sequence, the lengths of its segments and the origin
    of each. The provenance counts examples, tokens and targets of each origin.
    """
    folder = f"mixtures/{spec.digest}"
    known = Manifest.take(store, folder)
    if known:
        return known
    units = _units(spec)
    read = functools.partial(_read, units=units, store=store, num_parts=spec.num_parts)
    pack = functools.partial(
        _pack, store=store, folder=folder, capacity=spec.sequence_length, num_origins=len(spec.names)
    )
    rows = by_part(len(units), read, spec.num_parts, pack, store)
    counts = [row.pop("counts") for row in rows]
    manifest = Manifest(
        digest=spec.digest,
        folder=folder,
        parts=tuple(sorted((Part(**row) for row in rows), key=lambda part: part.name)),
        provenance={
            "sequence_length": spec.sequence_length,
            "origins": _origins(spec.names, counts),
            "records": [spec.own.digest, *(draw.origin.digest for draw in spec.draws)],
        },
    )
    manifest.commit(store)
    return manifest


def estimate(spec: MixtureSpec) -> Manifest:
    """What the mixture will about come to, without files: full sequences, replayed examples with as many targets a
    token as their set has."""
    drawn = [(m, d.receipt()["tokens"], len(d.rows)) for m, d in zip(spec.past, spec.draws, strict=True)]
    counts = [[[spec.own.rows, spec.own.tokens, spec.own.targets]]]
    counts[0] += [[rows, tokens, round(tokens * m.targets / max(1, m.tokens))] for m, tokens, rows in drawn]
    origins = _origins(spec.names, counts)
    tokens, targets = (sum(origin[name] for origin in origins) for name in ("tokens", "targets"))
    rows = math.ceil(tokens / spec.sequence_length)
    part = Part(name="", rows=rows, tokens=tokens, targets=targets, sha256="")
    return Manifest(digest=spec.digest, folder="", parts=(part,), provenance={"origins": origins})


def _origins(names: Sequence[str], counts: Sequence[list[list[int]]]) -> list[dict[str, Any]]:
    totals = np.sum(np.asarray(counts, dtype=np.int64), axis=0)
    return [
        {"stage": name, "rows": int(rows), "tokens": int(tokens), "targets": int(targets)}
        for name, (rows, tokens, targets) in zip(names, totals, strict=True)
    ]


@dataclass(frozen=True)
class _Unit:
    """A record file, the origin it belongs to, and which of its rows are wanted (None: all)."""

    manifest: Manifest
    part: str
    origin: int
    rows: Any


def _units(spec: MixtureSpec) -> list[_Unit]:
    wanted = [(spec.own, None), *((m, d.rows) for m, d in zip(spec.past, spec.draws, strict=True) if len(d.rows))]
    origins = [0, *(i for i, d in enumerate(spec.draws, 1) if len(d.rows))]
    units = []
    for origin, (manifest, rows) in zip(origins, wanted, strict=True):
        start = 0
        for part in manifest.parts:
            inside = None if rows is None else rows[(rows >= start) & (rows < start + part.rows)] - start
            if inside is None or len(inside):
                units.append(_Unit(manifest, part.name, origin, inside))
            start += part.rows
    return units


def _read(number: int, units: list[_Unit], store: Store, num_parts: int) -> Iterator[pa.Table]:
    """The wanted rows of a unit, with their origin and part."""
    unit = units[number]
    folder = store.fetch(unit.manifest.folder)
    with pa.memory_map(str(folder / unit.part)) as file:
        table = pa.ipc.open_file(file).read_all()
        table = table.select([*COLUMNS, *({CHOSEN} & set(table.column_names))])
        table = table if unit.rows is None else table.take(pa.array(unit.rows))
        for start in range(0, table.num_rows, ROWS_PER_TABLE):
            rows = table.slice(start, ROWS_PER_TABLE)
            part = [int(name[8:16], 16) % num_parts for name in rows["digest"].to_pylist()]
            origin = pa.array([unit.origin] * rows.num_rows, pa.int32())
            yield rows.append_column("origin", origin).append_column("part", pa.array(part, pa.int32()))


def _segments(table: pa.Table, pieces: Sequence[Piece]) -> list[list[int]]:
    """The lengths of each piece's segments: one, or those of the two halves of a preference pair."""
    if CHOSEN not in table.column_names:
        return [[piece.length] for piece in pieces]
    firsts = table[CHOSEN].to_pylist()
    assert len(pieces) == len(firsts), "a preference pair is never cut"
    return [[firsts[piece.example], piece.length - firsts[piece.example]] for piece in pieces]


def _pack(number: int, table: pa.Table, store: Store, folder: str, capacity: int, num_origins: int) -> dict[str, Any]:
    """Packs the examples of one part into rows, writes them, and returns the manifest entry, and counts by origin."""
    table = table.sort_by([("origin", "ascending"), ("digest", "ascending")]).combine_chunks()
    lengths, origins = table["num_tokens"].to_pylist(), table["origin"].to_pylist()
    pieces = cut(lengths, capacity)
    rows = best_fit_decreasing([piece.length for piece in pieces], capacity)
    placed = [pieces[index] for row in rows for index in row]
    lying = _segments(table, pieces)
    sizes = np.asarray([piece.length for piece in placed], np.int32)
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    row_sizes = np.asarray([sum(pieces[index].length for index in row) for row in rows])
    ends = pa.array(np.concatenate([[0], np.cumsum(row_sizes)]), pa.int32())
    ids, targets = (table[name].combine_chunks() for name in ("ids", "targets"))
    starts = ids.offsets.to_numpy()
    sources = np.asarray([starts[piece.example] + piece.start for piece in placed], np.int32)
    tokens = np.repeat(sources - firsts, sizes)
    tokens += np.arange(len(tokens), dtype=np.int32)
    packed_targets = targets.flatten().to_numpy(zero_copy_only=False)[tokens]
    packed_targets[firsts] = False  # nothing predicts it: it begins an example, or repeats the last token before it
    packed = pa.table(
        {
            "ids": pa.ListArray.from_arrays(ends, pa.array(ids.flatten().to_numpy()[tokens], pa.int32())),
            "targets": pa.ListArray.from_arrays(ends, pa.array(packed_targets, pa.bool_())),
            "segments": pa.array([[n for i in row for n in lying[i]] for row in rows], pa.list_(pa.int32())),
            "origins": pa.array(
                [[origins[pieces[i].example] for i in row for _ in lying[i]] for row in rows], pa.list_(pa.int16())
            ),
            "num_tokens": pa.array(row_sizes, pa.int32()),
            "num_targets": pa.array(np.add.reduceat(packed_targets.astype(np.int64), ends.to_numpy()[:-1]), pa.int32()),
        }
    )
    part = write_part(store, folder, number, packed)
    counts = np.zeros((num_origins, 3), dtype=np.int64)
    np.add.at(
        counts,
        origins,
        np.stack([np.ones(len(lengths)), lengths, table["num_targets"].to_numpy()], axis=1).astype(np.int64),
    )
    return {**dataclasses.asdict(part), "counts": counts.tolist()}
