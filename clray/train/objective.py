"""The loss of a stage: summed over target tokens, divided by their global count."""

from __future__ import annotations

import dataclasses
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
    """Packed sequences as tensors: ids, positions and segments (B, T); flat target positions and labels (N).

    `bounds` (S + 1) are those of the segments in the flattened rows, `longest` is the length of the longest.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor
    bounds: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> MicroBatch:
        """The same tensors on the device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


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
    bounds = masks.bounds(segments, length)
    return MicroBatch(
        ids=ids,
        positions=masks.positions(segments, length),
        segments=masks.segment_ids(segments, length),
        index=flat - 1,
        labels=ids.flatten()[flat],
        bounds=bounds,
        longest=int(bounds.diff().max()),
    )


class TargetLoss(nn.Module):
    """The model with its loss: the vocabulary projection is computed only where a target is predicted.

    In instruction data that is a few positions in a hundred, while the projection is the largest cost of a
    small model and the largest memory of a big one. `compiled` layers and cross-entropy go through torch.compile.
    Raises ModelError where the model cannot keep the documents of a packed row apart.
    """

    def __init__(self, model: Any, compiled: bool = False) -> None:
        super().__init__()
        masks.check_packing(model)
        self.model = model
        self._cross_entropy = torch.compile(cross_entropy) if compiled else cross_entropy
        if compiled:
            compile_layers(model)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of the cross-entropies (nats) over the batch's targets; 0 with gradient where there are none."""
        apart = masks.packed_inputs(self.model, batch.segments, batch.bounds, batch.longest)
        index = batch.index if len(batch.index) else batch.index.new_zeros(1)
        with projected_at(self.model, index):
            logits = self.model(batch.ids, position_ids=batch.positions, use_cache=False, **apart).logits
        if not len(batch.index):
            return logits.float().sum() * 0.0
        return self._cross_entropy(logits, batch.labels)


def cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies in nats, computed in fp32."""
    return nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")


def compile_layers(model: Any) -> None:
    """Compiles the model's layers, in place and when they are first called; equal ones share what is compiled."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile()
