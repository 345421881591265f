"""The method of a stage: four independent choices, and the optimiser that carries them out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clray.spec.adapter import Adapter, FullAdapter
from clray.spec.regulariser import NoRegulariser, Regulariser
from clray.spec.replay import NoReplay, Replay
from clray.spec.schedule import AnySchedule, Schedule
from clray.spec.strict import Strict


class Method(Strict):
    """The composition of four independent choices: adapter x replay x regulariser x schedule."""

    adapter: Adapter = FullAdapter()
    replay: Replay = NoReplay()
    regulariser: Regulariser = NoRegulariser()
    schedule: AnySchedule = Schedule()


class Optimiser(Strict):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101)."""

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="decoupled; matrices only, never biases or norms")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0 turns clipping off")
    state: Literal["reset", "carry"] = Field(
        "reset",
        description="carry: a stage goes on with the moments and the count of steps of its parent generation, which "
        "trained the same weights, and leaves its own beside its generation; the first stage has none to go on with",
    )


class Batch(Strict):
    """What one optimiser step sees, over all workers and accumulation."""

    size: int = Field(16, ge=1, description="in the unit of `unit`")
    unit: Literal["sequences", "tokens"] = "sequences"

    def sequences(self, sequence_length: int) -> int:
        """The batch in packed sequences; a size in tokens is rounded down, to at least one sequence."""
        return self.size if self.unit == "sequences" else max(1, self.size // sequence_length)
