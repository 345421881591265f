"""What a method adds to the mean loss of an optimiser step: O-LoRA's penalty, SAPT's attentive reflection.

A term does not depend on the batch. Every rank adds the same one to each of its micro-batches, and DeepSpeed's mean
over both is the term itself: its weight is independent of workers, accumulation and (reflection) the number of old
tasks. See train/anchor.py for one whose ranks add a share each.
"""

from __future__ import annotations

from typing import Any

import torch

from clray.models.attention import reflection


class Extra:
    """Adds nothing."""

    def begin(self, step: int, steps: int) -> None:
        """Tells it which optimiser step of how many comes next."""

    def term(self, like: torch.Tensor) -> torch.Tensor:
        """The term of this step, as a scalar; asked right after a forward pass of the model."""
        return like.new_zeros(())


class Orthogonality(Extra):
    """weight * sum over modules of |A_old A_new^T| (O-LoRA, arXiv 2310.14152)."""

    def __init__(self, blocks: Any, kind: str, weight: float) -> None:
        self._blocks, self._kind, self._weight = blocks, kind, weight
        blocks.want_penalty = weight > 0

    def term(self, like: torch.Tensor) -> torch.Tensor:
        """The penalty in fp32."""
        if not self._weight:
            return super().term(like)
        return self._weight * self._blocks.penalty(self._kind).to(like.device)


class Reflection(Extra):
    """weight * mean over tasks of KL(recorded attention || attention now) (SAPT, arXiv 2401.08295).

    The tasks are the old ones and, with `own`, the new one at its beginning. Each step looks at `batch` remembered
    prompts of each, drawn by seed and step alone. The weight rises over the first `warmup` of the stage, so that the
    new block is not shut out before it has learned.
    """

    def __init__(self, blocks: Any, settings: dict[str, Any], seed: int) -> None:
        self._blocks, self._settings, self._seed = blocks, settings, seed
        self._memory = [*blocks.memory, *(blocks.beginning if settings["own"] else [])]
        self._weight, self._rows = 0.0, []  # type: tuple[float, list[torch.Tensor]]

    def begin(self, step: int, steps: int) -> None:
        """Draws the prompts of this step."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        rising = self._settings["warmup"] * steps
        self._weight = self._settings["weight"] * min(1.0, (step + 1) / rising if rising else 1.0)
        self._rows = [
            torch.randint(len(pooled), (self._settings["batch"],), generator=generator) for pooled, _ in self._memory
        ]

    def term(self, like: torch.Tensor) -> torch.Tensor:
        """The weighted divergence in fp32."""
        rows = self._rows or [torch.zeros(1, dtype=torch.long) for _ in self._memory]
        return self._weight * reflection(self._blocks.attention, self._memory, rows).to(like.device)


class Both(Extra):
    """Two terms, added."""

    def __init__(self, first: Extra, second: Extra) -> None:
        self._terms = first, second

    def begin(self, step: int, steps: int) -> None:
        """Tells both."""
        for one in self._terms:
            one.begin(step, steps)

    def term(self, like: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        first, second = (one.term(like) for one in self._terms)
        return first + second


def make_extra(model: Any, adapter: dict[str, Any], seed: int) -> Extra:
    """The term of a stage with this adapter."""
    if adapter["kind"] == "olora":
        return Orthogonality(model.lora_blocks, adapter["penalty"], adapter["weight"])
    if adapter["kind"] == "sapt" and adapter["reflection"]["weight"] and model.lora_blocks.memory:
        return Reflection(model.lora_blocks, adapter["reflection"], seed)
    return Extra()
