"""The loss of a stage: summed over target tokens, divided by their global count."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from clray.data.batches import PackedShards, Sequence
from clray.models import masks
from clray.models.projection import projected_at
from clray.models.routing import routed
from clray.train.distil import Distillation
from clray.train.extra import Extra
from clray.train.preference import PreferenceLoss


@dataclass(frozen=True)
class MicroBatch:
    """Packed sequences as tensors: ids, positions and segments (B, T); flat target positions and labels (N).

    `bounds` (S + 1) are those of the segments in the flattened rows, `longest` is the length of the longest. `prompt`
    (B, T) is true before the first target of each segment. `origins` (N) are the targets' origins in the mixture. Of
    preference pairs, `halves` (N) number the segments of the targets, and `references` (S) are log p of each segment.
    Where a teacher's predictions are known, `taught_ids` (N, K) and `taught` (N, K + 1) hold them (see
    Distillation.known).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor
    origins: torch.Tensor
    bounds: torch.Tensor
    prompt: torch.Tensor
    longest: int
    halves: torch.Tensor
    references: torch.Tensor
    taught_ids: torch.Tensor | None = None
    taught: torch.Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same tensors on the device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


def collate(shards: PackedShards | list[Sequence], rows: np.ndarray, size: int) -> MicroBatch:
    """The micro-batch of these rows, padded to its longest; no rows give one sequence without targets.

    Every rank takes part in every step, since gradients are reduced over all of them.
    """
    sequences = [shards[int(row)] for row in rows]
    length = max((len(s.ids) for s in sequences), default=2)
    ids = torch.zeros((max(1, len(sequences)), length), dtype=torch.long)
    targets, prompt = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    origins = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.from_numpy(sequence.ids.astype(np.int64))
        targets[row, : len(sequence.ids)] = torch.from_numpy(sequence.targets)
        prompt[row, : len(sequence.ids)] = torch.from_numpy(before_first_target(sequence))
        origins[row, : len(sequence.ids)] = torch.from_numpy(np.repeat(sequence.origins, sequence.segments))
    segments = [s.segments for s in sequences] or [np.asarray([length])]
    flat = targets.flatten().nonzero().squeeze(1)
    bounds = masks.bounds(segments, length)
    ids_of_segments = masks.segment_ids(segments, length)
    before = np.cumsum([0, *map(len, segments[:-1])])
    return MicroBatch(
        ids=ids,
        positions=masks.positions(segments, length),
        segments=ids_of_segments,
        index=flat - 1,
        labels=ids.flatten()[flat],
        origins=origins.flatten()[flat],
        bounds=bounds,
        prompt=prompt,
        longest=int(bounds.diff().max()),
        **_taught(sequences, len(flat)),
        halves=(ids_of_segments + torch.from_numpy(before)[:, None]).flatten()[flat],
        references=torch.from_numpy(np.concatenate([np.empty(0), *(s.references for s in sequences)])).float(),
    )


def _taught(sequences: list[Sequence], targets: int) -> dict[str, torch.Tensor]:
    """What teachers predict at the targets, as fields of a micro-batch; none where nobody was asked."""
    known = [sequence.taught for sequence in sequences if sequence.taught is not None]
    if not known or not targets:
        return {}
    ids, values = (torch.from_numpy(np.concatenate(part)) for part in zip(*known, strict=True))
    return {"taught_ids": ids.long(), "taught": values}


def before_first_target(sequence: Sequence) -> np.ndarray:
    """For each token of the packed sequence, whether it stands before the first target of its segment."""
    starts = np.concatenate([[0], np.cumsum(sequence.segments)[:-1]])
    seen = np.cumsum(sequence.targets)
    before = np.concatenate([[0], seen])[starts]
    found: np.ndarray = seen == np.repeat(before, sequence.segments)
    return found


class TargetLoss(nn.Module):
    """The model with its loss: the vocabulary projection is computed only where a target is predicted.

    In instruction data that is a few positions in a hundred, while the projection is the largest cost of a small model
    and the largest memory of a big one. Each pass leaves `term`, what the method adds to the step's mean loss (see
    `Extra`), and `gate` (2): the newest LoRA block's weight under a shared attention, summed over the batch's
    instances, and their number. `compiled` layers and cross-entropy go through torch.compile. With `parts` (see
    StageOrder) targets are weighed by their origin, and each pass leaves in `seen` (P, 2) the unweighed cross-entropies
    of each part's targets, summed, and their number. With `distil` it leaves in `held` the batch's distances from what
    a teacher predicted, weighed and summed over targets. Of preference pairs, with the loss `preference`, `seen` (K, 2)
    has what that is to be seen of them instead. `watched` names the rows of `seen` for the training curve.
    Raises ModelError where the model cannot keep the documents of a packed row apart.
    """

    def __init__(
        self,
        model: Any,
        compiled: bool = False,
        extra: Extra | None = None,
        parts: Iterable[tuple[str, float]] = (),
        distil: Distillation | None = None,
        preference: PreferenceLoss | None = None,
    ) -> None:
        super().__init__()
        masks.check_packing(model)
        self.model, self.extra, self.distil = model, extra or Extra(), distil
        self.term = self.gate = self.seen = self.held = torch.zeros(())
        parts = list(parts)
        self.parts = list(dict.fromkeys(name for name, _ in parts))
        self.preference = preference
        self.watched = preference.names if preference else [f"loss_{part}" for part in self.parts]
        self._part_of = torch.tensor([self.parts.index(name) for name, _ in parts])
        self._weight_of = torch.tensor([weight for _, weight in parts])
        self._cross_entropy = torch.compile(cross_entropy) if compiled else cross_entropy
        if compiled:
            compile_layers(model)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of the cross-entropies (nats) over the batch's targets, or of the losses over its pairs; 0 with
        gradient where there are none."""
        self.seen = torch.zeros(len(self.watched), 2, device=batch.ids.device)
        logits, self.gate = predicted(self.model, batch)
        total = self._sum(logits, batch) if len(batch.index) else logits.float().sum() * 0.0
        self.term = self.extra.term(total)
        if self.distil and batch.taught_ids is not None and batch.taught is not None:
            self.held = self.distil.sum(logits, batch.taught_ids, batch.taught)
        else:
            self.held = torch.zeros_like(total, requires_grad=False)
        return total

    def _sum(self, logits_NV: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """The sum of the batch's cross-entropies, each times its part's weight, or of its pairs' losses."""
        if self.preference:
            total, self.seen = self.preference(logits_NV, batch.labels, batch.halves, batch.references)
            return total
        if not self.parts:
            return self._cross_entropy(logits_NV, batch.labels)
        losses_N = nn.functional.cross_entropy(logits_NV.float(), batch.labels, reduction="none")
        part_N = self._part_of.to(batch.origins.device)[batch.origins]
        sums_P = losses_N.new_zeros(len(self.parts)).index_add_(0, part_N, losses_N.detach())
        self.seen = torch.stack([sums_P, part_N.bincount(minlength=len(self.parts)).to(sums_P)], 1)
        return (losses_N * self._weight_of.to(losses_N)[batch.origins]).sum()


def predicted(model: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (N, V) at the batch's targets, at the first position where it has none; and what `newest_weight`
    says."""
    apart = masks.packed_inputs(model, batch.segments, batch.bounds, batch.longest)
    index = batch.index if len(batch.index) else batch.index.new_zeros(1)
    with routed(model, batch.prompt, batch.segments), projected_at(model, index):
        logits = model(batch.ids, position_ids=batch.positions, use_cache=False, **apart).logits
        return logits, newest_weight(model, batch)


def newest_weight(model: Any, batch: MicroBatch) -> torch.Tensor:
    """The newest block's weight, summed over the batch's instances, and their number; zeros without attention."""
    blocks = getattr(model, "lora_blocks", None)
    if blocks is None or blocks.attention is None or not len(batch.index):
        return torch.zeros(2, device=batch.ids.device)
    starts = (batch.positions == 0) & (batch.segments != masks.PADDING)
    weights = blocks.routing.weights.detach()[starts][:, -1]
    return torch.stack([weights.sum(), weights.new_tensor(float(len(weights)))])


def cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies in nats, computed in fp32."""
    return nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")


def compile_layers(model: Any) -> None:
    """Compiles the model's layers, in place and when they are first called; equal ones share what is compiled."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile()
