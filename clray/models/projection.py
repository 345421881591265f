"""The vocabulary projection, computed only at the positions that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clray.errors import ModelError


@contextmanager
def projected_at(model: Any, index: torch.Tensor) -> Iterator[None]:
    """A context in which the model's logits are (N, V), at the N flat positions of `index` only.

    `index` is a 1-D LongTensor of positions in the flattened (B*T) batch, in any order, repeats allowed;
    gradients flow. The hidden states are cut before the projection, which is the largest product of a small
    model and the largest tensor of a big one. Works on PEFT-wrapped models too. Not for calls with `labels`,
    whose loss expects (B, T, V). Raises ModelError where the model has no output embeddings.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings, so it predicts no tokens; "
            "give a causal language model (AutoModelForCausalLM)"
        )

    def cut(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = inputs
        return hidden.flatten(0, -2).index_select(0, index.to(hidden.device)), *rest

    hook = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        hook.remove()
