"""What earlier generations predict at the targets of a mixture: computed once before the stage, kept by content.

    logits/<digest>/part-00000.arrow ...   ids and values of each packed sequence's targets, one row a sequence
                    manifest.json          committed last

The digest holds the mixture, the generation that teaches each origin and what is kept, and a row has the number of its
packed sequence: no order of steps is in it, so a stage that goes on, another seed or another weight reads the same
file. The other way, a frozen copy of the parent beside the model, is exact as well but for what top-k leaves out. It
would take a second model's memory on every rank for the whole stage and a forward pass more in every epoch, would have
to be partitioned under ZeRO-3, and could not give what a generation before the parent predicted (DER).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from clray.data.batches import BatchPlan, PackedShards, Sequence
from clray.data.manifest import Manifest, Part, read_parts, write_part
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.models.loading import load_model
from clray.train.context import Context
from clray.train.distil import Distillation
from clray.train.objective import collate, predicted
from clray.train.order import StageOrder

VERSION = 1
ENTRIES_PER_PART = 1 << 24
Rows = dict[int, tuple[np.ndarray, np.ndarray]]


class TaughtShards(PackedShards):
    """The packed sequences of a mixture with what its teachers predict at their targets, memory-mapped as well."""

    def __init__(self, store: Store, mixture: Manifest, logits: Manifest, top_k: int) -> None:
        super().__init__(store, mixture)
        table = read_parts(store, logits, ["ids", "values"])
        self._taught = [table[name].chunks for name in ("ids", "values")]
        self._taught_ends = np.cumsum([len(chunk) for chunk in self._taught[0]])
        self._top_k = top_k

    def __getitem__(self, row: int) -> Sequence:
        chunk = int(np.searchsorted(self._taught_ends, row, side="right"))
        inside = row - (int(self._taught_ends[chunk - 1]) if chunk else 0)
        ids, values = (chunks[chunk][inside].values.to_numpy(zero_copy_only=False) for chunks in self._taught)
        targets = int(self.num_targets[row])
        known = ids.reshape(-1, self._top_k), values.reshape(-1, self._top_k + 1)
        return dataclasses.replace(
            super().__getitem__(row), taught=known if len(ids) else _nothing(targets, self._top_k)
        )


def taught(
    store: Store, order: StageOrder, shards: PackedShards, plan: BatchPlan, kept: Distillation, context: Context
) -> TaughtShards:
    """The shards with what the order's teachers predict at the targets that the stage will see: taken from the store,
    or computed by all ranks and committed. Every rank must call it."""
    seen = [] if plan.total >= plan.num_rows else [plan.total, plan.seed]
    identity = [order.mixture, list(order.teachers), kept.top_k, kept.temperature, kept.squared]
    mark = digest([VERSION, *identity, order.recipe["precision"], *seen])
    folder = f"logits/{mark}"
    if not context.agree(Manifest.take(store, folder) is not None if context.rank == 0 else False):
        mine = list(_write(store, folder, order, shards, _wanted(shards, plan), kept, context))
        parts = sorted((Part(**part) for some in context.gather(mine) for part in some), key=lambda part: part.name)
        if context.rank == 0:
            Manifest(digest=mark, folder=folder, parts=tuple(parts)).commit(store)
        context.agree(None)
    mixture, logits = (Manifest.load(store, name) for name in (f"mixtures/{order.mixture}", folder))
    assert mixture is not None and logits is not None, "both are committed"
    return TaughtShards(store, mixture, logits, kept.top_k)


def _wanted(shards: PackedShards, plan: BatchPlan) -> np.ndarray:
    """Whether the stage will see each row."""
    wanted = np.zeros(len(shards), dtype=bool)
    for step in range(min(plan.steps, -(-plan.num_rows // plan.size))):
        wanted[plan.rows(step)] = True
    return wanted


def _write(
    store: Store,
    folder: str,
    order: StageOrder,
    shards: PackedShards,
    wanted: np.ndarray,
    kept: Distillation,
    context: Context,
) -> Iterator[dict[str, Any]]:
    """Computes and writes this rank's parts; yields their manifest entries. One teacher is in memory at a time."""
    ends, most = np.cumsum(shards.num_targets), max(1, ENTRIES_PER_PART // (kept.top_k + 1))
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], most), side="left")
    parts = list(enumerate(np.split(np.arange(len(shards)), np.unique(cuts)[1:])))[context.rank :: context.world]
    found: dict[int, Rows] = {number: {} for number, _ in parts}
    keys = sorted({key for key in order.teachers if key})
    for key in keys:
        model: Any = load_model(store, key, order.recipe["precision"], order.attention, order.trust_remote_code)
        model.to(context.device).eval()
        origins = [number for number, teacher in enumerate(order.teachers) if teacher == key]
        for number, rows in parts:
            for some in _some(rows[wanted[rows]], order.compute["micro_batch"]):
                _teach(model, shards, some, origins, kept, context.device, found[number])
            if key == keys[-1]:
                yield dataclasses.asdict(write_part(store, folder, number, _table(found.pop(number), shards, rows)))


def _some(rows: np.ndarray, micro: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), micro):
        yield rows[start : start + micro]


@torch.no_grad()
def _teach(
    model: Any,
    shards: PackedShards,
    rows: np.ndarray,
    origins: list[int],
    kept: Distillation,
    device: torch.device,
    found: Rows,
) -> None:
    """Adds to `found` what the model predicts at the rows' targets of these origins."""
    batch = collate(shards, rows, len(rows))
    mine = np.isin(batch.origins.numpy(), origins)
    if not mine.any():
        return
    ids, values = (part.cpu().numpy() for part in kept.known(predicted(model, batch.to(device))[0]))
    stop = 0
    for row in rows:
        start, stop = stop, stop + int(shards.num_targets[row])
        own = mine[start:stop]
        if own.any():
            known = found.setdefault(int(row), _nothing(stop - start, kept.top_k))
            known[0][own], known[1][own] = ids[start:stop][own], values[start:stop][own]


def _nothing(targets: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries of targets without a teacher."""
    return np.full((targets, top_k), -1, np.int32), np.zeros((targets, top_k + 1), np.float32)


def _table(found: Rows, shards: PackedShards, rows: np.ndarray) -> pa.Table:
    """The rows' entries as they are written; empty where nobody teaches."""
    empty = np.empty(0, np.int32), np.empty(0, np.float32)
    pairs = [found.get(int(row), empty) for row in rows]
    return pa.table(
        {
            "ids": pa.array([ids.ravel() for ids, _ in pairs], pa.list_(pa.int32())),
            "values": pa.array([values.ravel() for _, values in pairs], pa.list_(pa.float32())),
            "num_tokens": pa.array(shards.num_tokens[rows], pa.int32()),
            "num_targets": pa.array(shards.num_targets[rows], pa.int32()),
        }
    )
