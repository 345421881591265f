"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any


def learning_rate(step: int, steps: int, peak: float, schedule: dict[str, Any]) -> float:
    """Learning rate of optimiser step `step` (from 0) out of `steps`.

    Rises linearly over the warm-up share of the steps, then falls to `final * peak` at the last step
    (cosine or linear), or stays (constant); see `_infinite` for a schedule that goes on over stages.
    """
    if schedule["kind"] == "infinite":
        return peak * _infinite(step, steps, schedule)
    warmup = math.ceil(schedule["warmup"] * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule["kind"] == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    fall = _half_cosine(progress) if schedule["kind"] == "cosine" else 1 - progress
    return peak * (schedule["final"] + (1 - schedule["final"]) * fall)


def _infinite(step: int, steps: int, schedule: dict[str, Any]) -> float:
    """Share of the peak (Ibrahim et al., arXiv 2403.08763): warm-up, cool-down as half a cosine, constant rate, and
    an exponential fall over the annealed share, which ends at `final`. A stage that `begins` constant has no first two.
    """
    constant = float(schedule["constant"])
    annealed = math.ceil(schedule["anneal"] * steps)
    into = step - (steps - annealed)
    if into >= 0:
        return float(constant * (schedule["final"] / constant) ** ((into + 1) / annealed))
    if schedule.get("begins") == "constant":
        return constant
    warmup = math.ceil(schedule["warmup"] * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    cooldown = math.ceil(schedule["cooldown"] * steps)
    progress = min(1.0, (step - warmup) / cooldown) if cooldown else 1.0
    return constant + (1 - constant) * _half_cosine(progress)


def _half_cosine(progress: float) -> float:
    """From 1 to 0 as progress goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
