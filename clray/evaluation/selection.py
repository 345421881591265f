"""Which LoRA blocks a shared attention selected for the examples of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def weights_now(model: Any, count: int) -> list[list[float]] | list[None]:
    """The blocks' weights, oldest first, of each of the `count` instances of the running forward pass; Nones without
    shared attention. Asked inside `routed`."""
    blocks = getattr(model, "lora_blocks", None)
    if blocks is None or blocks.attention is None:
        return [None] * count
    found: list[list[float]] = blocks.routing.weights[:, 0].float().cpu().tolist()
    return found


def selection(results: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean weight of each block over the examples, and the share of examples in which it is the heaviest; empty where
    no attention selected."""
    weights = [result["attention"] for result in results if result.get("attention")]
    if not weights:
        return {}
    table = np.asarray(weights)
    heaviest = np.bincount(table.argmax(1), minlength=table.shape[1]) / len(table)
    return {"attention": table.mean(0).tolist(), "heaviest": heaviest.tolist()}
