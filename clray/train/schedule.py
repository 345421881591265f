"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any


def learning_rate(step: int, steps: int, peak: float, schedule: dict[str, Any]) -> float:
    """Learning rate of optimiser step `step` (from 0) out of `steps`.

    Rises linearly over the warm-up share of the steps, then falls to `final * peak` at the last step
    (cosine or linear), or stays (constant).
    """
    warmup = math.ceil(schedule["warmup"] * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule["kind"] == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if schedule["kind"] == "cosine" else 1 - progress
    return peak * (schedule["final"] + (1 - schedule["final"]) * fall)
