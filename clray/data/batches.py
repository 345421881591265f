"""Batch k as a pure function of (manifest, seed, k, global batch), whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from clray.data.manifest import Manifest, read_parts
from clray.lineage.store import Store


@dataclass(frozen=True)
class Sequence:
    """One packed sequence: token ids (T), loss targets (T), lengths and origins of its segments; and, where a teacher's
    predictions at its n targets are wanted, tokens (n, K) and values (n, K + 1), see train/distil.py.

    Of preference pairs, whose halves follow each other as segments, chosen first, also the `references`: log p of each
    segment's targets by the generation that the stage starts from.
    """

    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    origins: np.ndarray
    taught: tuple[np.ndarray, np.ndarray] | None = None
    references: np.ndarray = field(default_factory=lambda: np.empty(0))


class PackedShards:
    """The packed sequences of a mixture, memory-mapped, read by number; of preference pairs with their `references`.

    `num_units` is what a loss is divided by: the targets of each sequence, or its pairs.
    """

    def __init__(self, store: Store, manifest: Manifest, references: Manifest | None = None) -> None:
        table = read_parts(store, manifest)
        self.num_targets = table["num_targets"].to_numpy().astype(np.int64)
        self.num_tokens = table["num_tokens"].to_numpy().astype(np.int64)
        self._columns = {name: table[name].chunks for name in ("ids", "targets", "segments", "origins")}
        sizes = [len(chunk) for chunk in self._columns["ids"]]
        self._ends = np.cumsum(sizes)
        self._references: pa.ListArray | None = None
        self.num_units = self.num_targets
        if references is not None:
            self._references = read_parts(store, references)["log_probs"].combine_chunks()
            self.num_units = np.diff(self._references.offsets.to_numpy()).astype(np.int64) // 2

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, row: int) -> Sequence:
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        inside = row - (int(self._ends[chunk - 1]) if chunk else 0)
        return Sequence(
            **{
                name: chunks[chunk][inside].values.to_numpy(zero_copy_only=False)
                for name, chunks in self._columns.items()
            },
            **({"references": self._references[row].values.to_numpy()} if self._references is not None else {}),
        )


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The order in which a stage sees its packed sequences.

    `total` sequences are seen in all: epoch after epoch, each a permutation of its own by (seed, epoch).
    Global batch k holds positions k * size ... (k + 1) * size of that order; the last one may be short.
    """

    num_rows: int
    total: int
    size: int
    seed: int

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return math.ceil(self.total / self.size)

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of global batch `step`."""
        positions = np.arange(step * self.size, min((step + 1) * self.size, self.total))
        epochs = positions // self.num_rows
        return np.concatenate(
            [self._permutation(int(epoch))[positions[epochs == epoch] % self.num_rows] for epoch in np.unique(epochs)]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)

    def micro_batches(self, step: int, rank: int, world: int, micro: int) -> Iterator[np.ndarray]:
        """Row numbers of each micro-batch of `rank`; every rank gets the same number, a spare one is empty."""
        rows = self.rows(step)
        for start in range(0, self.size, micro * world):
            yield rows[start + rank * micro : start + (rank + 1) * micro]


def plan_batches(length: dict[str, Any], num_rows: int, num_tokens: int, size: int, seed: int) -> BatchPlan:
    """The plan of a stage whose length is given in epochs, steps or tokens."""
    if "steps" in length:
        total = length["steps"] * size
    elif "tokens" in length:
        total = math.ceil(length["tokens"] * num_rows / num_tokens)
    else:
        total = math.ceil(length["epochs"] * num_rows)
    return BatchPlan(num_rows=num_rows, total=max(1, total), size=size, seed=seed)
