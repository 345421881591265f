"""Outcomes whose lines select among LoRA blocks, as `clray.outcome` writes them."""

from __future__ import annotations

from typing import Any

from report_outcomes import Outcome, make_outcome


def make_selection(tasks: list[str], blocks: list[str], own_weight: float = 0.8) -> dict[str, Any]:
    """A task with a block gives it `own_weight` and the rest to the others evenly; a task without one is even."""
    own = [blocks.index(task) if task in blocks else None for task in tasks]
    rest = (1 - own_weight) / max(1, len(blocks) - 1)
    attention = [
        [1 / len(blocks) if mine is None else own_weight if n == mine else rest for n in range(len(blocks))]
        for mine in own
    ]
    heaviest = [[float(n == (mine or 0)) for n in range(len(blocks))] for mine in own]
    return {
        "tasks": tasks,
        "blocks": blocks,
        "attention": attention,
        "heaviest": heaviest,
        "own": own,
        "accuracy": 1.0,
    }


def make_attentive(num_stages: int = 3, controls: tuple[str, ...] = ("lora",), probe: str | None = "trivia") -> Outcome:
    """A SAPT stream of stages s1..sN beside controls that select nothing; the new block's weight falls to 0.9 / t."""
    outcome = make_outcome({f"s{n}": "rouge_l" for n in range(1, num_stages + 1)}, controls, probe)
    stream, *others = outcome["lines"]
    stages = [f"s{n}" for n in range(1, num_stages + 1)]
    stream["selection"] = make_selection([*([probe] if probe else []), *reversed(stages)], stages)
    for line in others:
        line["selection"] = None
    for generation in stream["generations"][1:]:
        number = generation["index"]
        for row in generation["curve"]:
            row["newest_block_weight"] = 1.0 if number == 1 else 0.9 / number
            if number > 1 and row["step"] > 1:
                row["extra_loss"] = 0.0125 * number
    return outcome
