"""What SAPT keeps of a task's prompts: pooled embeddings, from which its attention follows without the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from clray.data.batches import BatchPlan, PackedShards
from clray.models.attention import pooled_prompts
from clray.train.objective import before_first_target

PROMPTS_AT_ONCE = 64
MEAN_OF = 256
"""Prompts whose mean query a new key begins at."""


def own_prompts(shards: PackedShards, plan: BatchPlan) -> Iterator[np.ndarray]:
    """Token ids of the prompts of the stage's own examples, in the order in which they are trained on."""
    seen: set[int] = set()
    for step in range(plan.steps):
        for row in plan.rows(step):
            if int(row) in seen:
                return
            seen.add(int(row))
            sequence = shards[int(row)]
            prompt, start = before_first_target(sequence), 0
            for length, origin in zip(sequence.segments, sequence.origins, strict=True):
                stop = start + int(length)
                if origin == 0:
                    yield sequence.ids[start:stop][prompt[start:stop]].astype(np.int64)
                start = stop


@torch.no_grad()
def pooled(model: Any, shards: PackedShards, plan: BatchPlan, count: int, device: torch.device) -> torch.Tensor:
    """Pooled embeddings (n, d) of the first `count` prompts, in fp32 on the CPU. Every rank must call it (ZeRO-3)."""
    prompts = [prompt for prompt, _ in zip(own_prompts(shards, plan), range(count), strict=False)]
    table, parts = model.get_input_embeddings(), []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = prompts[start : start + PROMPTS_AT_ONCE]
        ids = torch.zeros((len(some), max(map(len, some))), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, prompt in enumerate(some):
            ids[row, : len(prompt)] = torch.from_numpy(prompt)
            mask[row, : len(prompt)] = True
        parts.append(pooled_prompts(table(ids.to(device)), mask.to(device))[0].cpu())
    return torch.cat(parts)


@torch.no_grad()
def record(
    model: Any, shards: PackedShards, plan: BatchPlan, count: int, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The new task's entry of the memory: pooled prompts (n, d), and their mean attention (T) at the end of training.

    The paper takes the mean over a dev set, which is its test set; here it is over training prompts.
    """
    found = pooled(model, shards, plan, count, device)
    weights = model.lora_blocks.attention(found.to(device)).float().mean(0).cpu()
    return [(found, weights)]
