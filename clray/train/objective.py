"""The loss of a stage: summed over target tokens, divided by their global count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from clray.data.batches import PackedShards
from clray.models import masks
from clray.models.projection import projected_at


@dataclass(frozen=True)
class MicroBatch:
    """Packed sequences as tensors: ids, positions and segments (B, T); flat target positions and labels (N)."""

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same tensors on the device."""
        return MicroBatch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


def collate(shards: PackedShards, rows: np.ndarray, size: int) -> MicroBatch:
    """The micro-batch of these rows, padded to its longest; no rows give one sequence without targets.

    Every rank takes part in every step, since gradients are reduced over all of them.
    """
    sequences = [shards[int(row)] for row in rows]
    length = max((len(s.ids) for s in sequences), default=2)
    ids = torch.zeros((max(1, len(sequences)), length), dtype=torch.long)
    targets = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.from_numpy(sequence.ids.astype(np.int64))
        targets[row, : len(sequence.ids)] = torch.from_numpy(sequence.targets)
    segments = [s.segments for s in sequences] or [np.asarray([length])]
    flat = targets.flatten().nonzero().squeeze(1)
    return MicroBatch(
        ids, masks.positions(segments, length), masks.segment_ids(segments, length), flat - 1, ids.flatten()[flat]
    )


class TargetLoss(nn.Module):
    """The model with its loss: the vocabulary projection is computed only where a target is predicted.

    In instruction data that is a few positions in a hundred, while the projection is the largest cost of a
    small model and the largest memory of a big one.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of the cross-entropies (nats) over the batch's targets; 0 with gradient where there are none."""
        mask = masks.block_causal(batch.segments, self.model.dtype)
        index = batch.index if len(batch.index) else batch.index.new_zeros(1)
        with projected_at(self.model, index):
            logits = self.model(batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False).logits
        if not len(batch.index):
            return logits.float().sum() * 0.0
        return nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
