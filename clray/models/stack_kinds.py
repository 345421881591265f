"""Which adapters are stacks of LoRA blocks, and which of them go on with one another. Needs no torch."""

from __future__ import annotations

from typing import Any

from clray.spec.adapter import STACKS


def is_stack(adapter: dict[str, Any] | None) -> bool:
    """Whether an adapter is made of blocks, one a stage."""
    return adapter is not None and adapter["kind"] in STACKS


def goes_on(parent: dict[str, Any] | None, adapter: dict[str, Any]) -> bool:
    """Whether a stage with `adapter` puts its block beside those of a parent that was made with another one."""
    if parent is None or not (is_stack(parent) and is_stack(adapter)):
        return False
    return (parent["kind"] == "sapt") == (adapter["kind"] == "sapt") and parent["targets"] == adapter["targets"]
