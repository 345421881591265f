"""What the scorers share: batches of like lengths, the model's limits, log-probabilities of targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

LOGIT_ROWS = 1024


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of item numbers, longest first, each of at most `batch_tokens` padded tokens.

    Longest first, so that a batch that does not fit the memory fails at once. An item longer than the budget
    is a batch of its own; every item is in exactly one batch.
    """
    batch: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device, left: bool = False) -> torch.Tensor:
    """The rows as one LongTensor (B, T), filled with `value` on the right, or on the left."""
    length = max(len(row) for row in rows)
    fill = ([value] * (length - len(row)) for row in rows)
    return torch.tensor(
        [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, fill, strict=True)], device=device
    )


def target_log_probs(logits_NV: torch.Tensor, row_M: torch.Tensor, target_M: torch.Tensor) -> torch.Tensor:
    """log p of each target (M) in nats under the logits of its row, float32 whatever the model's precision.

    The normaliser is computed once a row, block by block: a float32 copy of all logits may not fit the
    memory.
    """
    normaliser_N = torch.cat([block.float().logsumexp(-1) for block in torch.split(logits_NV, LOGIT_ROWS)])
    return logits_NV[row_M, target_M].float() - normaliser_N[row_M]


def max_positions(model: Any) -> int | None:
    """The most tokens that the model takes in one sequence, None where it sets no limit."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """A context with the model in evaluation mode and no gradients; its mode is restored after."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
