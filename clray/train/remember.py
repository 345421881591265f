"""What SAPT keeps of a task's prompts: pooled embeddings, from which its attention follows without the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from clray.data.batches import BatchPlan, PackedShards
from clray.lineage.store import Store
from clray.models.attention import centre_on, initialise_key, pooled_prompts
from clray.train.objective import before_first_target

PROMPTS_AT_ONCE = 64
MEAN_OF = 256
"""Prompts whose mean query a new key begins at."""


def own_prompts(shards: PackedShards, plan: BatchPlan) -> Iterator[np.ndarray]:
    """Token ids of the prompts of the stage's own examples, in the order in which they are trained on; a preference
    pair's once."""
    seen: set[int] = set()
    for step in range(plan.steps):
        for row in plan.rows(step):
            if int(row) in seen:
                return
            seen.add(int(row))
            sequence = shards[int(row)]
            prompt, start = before_first_target(sequence), 0
            halves = 2 if len(sequence.references) else 1
            for number, (length, origin) in enumerate(zip(sequence.segments, sequence.origins, strict=True)):
                stop = start + int(length)
                if origin == 0 and number % halves == 0:
                    yield sequence.ids[start:stop][prompt[start:stop]].astype(np.int64)
                start = stop


def first_prompts(shards: PackedShards, plan: BatchPlan, count: int) -> list[np.ndarray]:
    """The first `count` of the stage's own prompts."""
    return list(itertools.islice(own_prompts(shards, plan), count))


def pseudo_prompts(store: Store, path: str) -> list[np.ndarray]:
    """The prompts that a generator wrote for the task."""
    return [np.asarray(prompt, dtype=np.int64) for prompt in store.read_json(path)["prompts"]]


@torch.no_grad()
def pooled(model: Any, prompts: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Pooled embeddings (n, d) of the prompts, in fp32 on the CPU. Every rank must call it (ZeRO-3)."""
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
def begin(model: Any, own: Sequence[np.ndarray], adapter: dict[str, Any]) -> None:
    """Readies the attention for a new task with these prompts: centre, new key, and the attention it begins with.

    Depends on what the parent left and on the prompts alone, so a stage that goes on begins the same. For a model that
    no engine holds yet.
    """
    blocks, prompts = model.lora_blocks, pooled(model, own, torch.device("cpu"))
    if adapter["centre"]:
        centre_on(blocks.attention, [*(past for past, _ in blocks.memory), prompts])
    if adapter["key_init"] == "mean_query":
        initialise_key(blocks.attention, prompts)
    weights = blocks.attention(prompts.to(blocks.attention.old_keys.device)).float().mean(0).cpu()
    blocks.beginning = [(prompts[: adapter["reflection"]["prompts"]], weights)]


@torch.no_grad()
def record(
    model: Any, own: Sequence[np.ndarray], kept: Sequence[np.ndarray], device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The new task's entry of the memory: pooled prompts (n, d) of `kept`, and the mean attention (T) of its `own` at
    the end of training.

    The paper takes the mean over a dev set, which is its test set; here it is over training prompts.
    """
    weights = model.lora_blocks.attention(pooled(model, own, device).to(device)).float().mean(0).cpu()
    return [(pooled(model, kept, device), weights)]
