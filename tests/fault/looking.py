"""What a fault test sees of a run from outside."""

from __future__ import annotations

import json
import time
from pathlib import Path

from nodes import wait_for


class Look:
    """Looks into the store of a stream from outside, as a person with a shell would."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"

    def generation(self) -> dict | None:
        """The record of the stage's generation, once it is there."""
        found = [json.loads(p.read_text()) for p in self.store.glob("generations/*/generation.json")]
        return next((record for record in found if record["index"] == 1), None)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p.parent for p in self.store.glob("checkpoints/*/*/checkpoint.json"))

    def step(self) -> int:
        """Step of the newest complete checkpoint."""
        return max((int(p.name.partition("-")[0]) for p in self.checkpoints()), default=0)

    def reaches(self, step: int) -> int:
        """Waits until a checkpoint at `step` or later is complete."""
        wait_for(lambda: self.step() >= step or self.generation())
        assert self.step() >= step, "the stage was finished before it could be disturbed"
        return self.step()

    def losses(self) -> list[float]:
        """The training curve of the stage's generation."""
        return [point["loss"] for point in json.loads(next(self.store.glob("generations/*/curve.json")).read_text())]


class Clock:
    """Time lost: from the fault until training (or measuring) is further than it was."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def until(self, condition) -> str:
        """Waits for the condition; the seconds since the fault, in words."""
        wait_for(condition)
        return f"{time.monotonic() - self.since:.0f} s"
