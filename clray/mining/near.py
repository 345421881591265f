"""Near-duplicates among passages: MinHash on Ray Data finds who may be alike, Jaccard's index decides.

Two passages are the same where more than 0.8 of all word 5-shingles of both are in both. Of two such the later (by
digest) is out, whatever became of the earlier: so each pair is judged by itself, on any node, and the outcome does not
depend on order. With 20 bands of 5 hashes a pair at 0.8 is looked at with probability 0.9996, identical ones always.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clray.data.manifest import Manifest
from clray.lineage.store import Store
from clray.mining.shelf import open_part
from clray.mining.words import runs, words

SHINGLE, SAME = 5, 0.8
BANDS, HASHES = 20, 5
ROWS = 2048


def duplicates(manifest: Manifest, store: Store) -> dict[int, NDArray[np.int64]]:
    """Number of each part of the set that has near-duplicates of earlier passages -> the rows of those."""
    from clray.ray_session import run_dataset

    bands = functools.partial(_bands, manifest=manifest, store=store)
    later = functools.partial(_later, manifest=manifest, store=store)
    numbers = [{"part": number} for number in range(len(manifest.parts))]
    found = run_dataset(
        lambda data: (
            data.from_items(numbers, override_num_blocks=len(numbers))
            .map_batches(bands, batch_size=1, batch_format="pyarrow")
            .groupby("group", num_partitions=len(numbers))
            .map_groups(later, batch_format="pyarrow")
        )
    )
    pairs = np.unique(np.array([(row["part"], row["row"]) for row in found], np.int64).reshape(-1, 2), axis=0)
    return {int(part): pairs[pairs[:, 0] == part, 1] for part in np.unique(pairs[:, 0])}


def shingles(text: str) -> set[str]:
    """The distinct runs of five words; all words together where there are fewer."""
    found = words(text)
    return set(runs(found, min(SHINGLE, len(found))))


def jaccard(one: set[str], other: set[str]) -> float:
    """What two sets have in common, as a share of all they have."""
    return len(one & other) / len(one | other)


def _bands(batch: pa.Table, manifest: Manifest, store: Store) -> Iterator[pa.Table]:
    """The band values of each passage: what two passages share where their smallest hashes agree in a band."""
    from datasketch import MinHash

    for number in batch["part"].to_pylist():
        texts = open_part(store, manifest, number)["text"]
        for start in range(0, len(texts), ROWS):
            sets = [[run.encode() for run in shingles(text)] for text in texts[start : start + ROWS].to_pylist()]
            sketches = MinHash.bulk(sets, num_perm=BANDS * HASHES, seed=1, scheme="affine32")
            hashes = np.stack([sketch.hashvalues for sketch in sketches]).reshape(-1, BANDS, HASHES)
            values = _mixed(hashes.astype(np.uint64)).ravel()
            rows = np.repeat(np.arange(start, start + len(sets)), BANDS)
            yield pa.table(
                {
                    "band": values.view(np.int64),
                    "part": np.full(len(rows), number, np.int32),
                    "row": rows.astype(np.int32),
                    "group": (values % np.uint64(len(manifest.parts))).astype(np.int32),
                }
            )


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for each band's hashes (n, bands, hashes) -> (n, bands), different in different bands."""
    values = np.broadcast_to(np.arange(hashes.shape[1], dtype=np.uint64), hashes.shape[:2])
    for place in range(hashes.shape[2]):
        values = (values ^ hashes[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        values = values ^ (values >> np.uint64(29))
    return values


def _later(table: pa.Table, manifest: Manifest, store: Store) -> pa.Table:
    """The passages of one group of band values that are near-duplicates of an earlier one of their band."""
    columns = [table[name].to_numpy() for name in ("row", "part", "band")]
    order = np.lexsort(columns)
    rows, parts, bands = (column[order] for column in columns)
    ends = np.flatnonzero(np.append(bands[1:] != bands[:-1], True)) + 1
    out: set[tuple[int, int]] = set()
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        if end - start > 1:
            members = list(zip(parts[start:end].tolist(), rows[start:end].tolist(), strict=True))
            _judge(members, out, functools.partial(_text, manifest=manifest, store=store))
    found = sorted(out)
    return pa.table(
        {"part": pa.array([p for p, _ in found], pa.int32()), "row": pa.array([r for _, r in found], pa.int32())}
    )


def _judge(members: list[tuple[int, int]], out: set[tuple[int, int]], text: Any) -> None:
    """Adds to `out` each member that is a near-duplicate of one before it."""
    sets = [shingles(text(member)) for member in members]
    for later, member in enumerate(members):
        if member not in out and any(jaccard(sets[earlier], sets[later]) > SAME for earlier in range(later)):
            out.add(member)


def _text(place: tuple[int, int], manifest: Manifest, store: Store) -> str:
    part, row = place
    return str(open_part(store, manifest, part)["text"][row].as_py())
