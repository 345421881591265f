"""The content address of a generation: same key, same generation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

RECIPE_VERSION = 1
"""Raised whenever the same inputs would train to another result."""


def canonical(value: Any) -> str:
    """JSON text of `value` with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 32) -> str:
    """First `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def generation_key(
    parent: str, stage: dict[str, Any], data: list[str], replay: list[str], seed: int, version: int = RECIPE_VERSION
) -> str:
    """Key of the generation that training `stage` makes of generation `parent`.

    `data` are the digests of the stage's own record sets; `replay` those of the earlier stages that may be
    shown again, in order. Paths, names, worker counts and addresses are no part of it.
    """
    return digest({"parent": parent, "stage": stage, "data": data, "replay": replay, "seed": seed, "v": version})


def root_key(model: dict[str, Any], version: int = RECIPE_VERSION) -> str:
    """Key of generation 0: `model` holds the digests of weights and tokenizer, or the builtin's recipe."""
    return digest({"root": model, "v": version})
