"""When a running stage is saved, and how it goes on from what was saved."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from clray.lineage.store import Store
from clray.train import state
from clray.train.checkpoint import Checkpoints
from clray.train.context import Context
from clray.train.order import Progress, StageOrder

NOTHING, SAVE, LEAVE = 0, 1, 2
"""What rank 0 wishes after a step: go on, save a checkpoint, or save one and leave."""


@dataclass
class Running:
    """How far a stage has come: its training curve, one point an optimiser step, and the seconds it took."""

    curve: list[dict[str, float]] = field(default_factory=list)
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return len(self.curve)

    @property
    def seconds(self) -> float:
        """Seconds of training, with those before the checkpoint that it went on from."""
        return self.before + time.monotonic() - self.started

    def add(self, loss: float, learning_rate: float, tokens: int, more: dict[str, float]) -> None:
        """Adds an optimiser step over so many tokens, with what `more` was seen of it."""
        seen = int(self.curve[-1]["tokens"] if self.curve else 0) + tokens
        self.curve.append(
            {
                "step": self.step + 1,
                "loss": loss,
                "learning_rate": learning_rate,
                "tokens": seen,
                "tokens_per_second": seen / max(self.seconds, 1e-9),
                **more,
            }
        )

    def progress(self, key: str, steps: int) -> Progress:
        """The newest step, for whoever looks on."""
        last = self.curve[-1]
        return Progress(
            key=key,
            step=self.step,
            steps=steps,
            loss=last["loss"],
            learning_rate=last["learning_rate"],
            tokens=int(last["tokens"]),
            seconds=self.seconds,
        )


class Saver:
    """Saves one running stage, and holds what it goes on from. Rank 0 decides, all ranks take part.

    `behind` are the optimiser steps that AdamW counts before the stage's first.
    """

    def __init__(self, store: Store, order: StageOrder, context: Context, behind: int = 0) -> None:
        self._store = store
        self._order = order
        self._context = context
        self._behind = behind
        self._when = order.compute["checkpoint"]
        self._checkpoints = Checkpoints(store, order.key, self._when["keep"], context.say)
        found = self._checkpoints.newest(order.mixture) if context.rank == 0 else None
        folder, self._attempt = context.agree((found.folder if found else None, uuid.uuid4().hex[:8]))
        self._found = self._checkpoints.load(folder) if folder else None
        self._tensors = self._found.tensors(store) if self._found else {}
        self._last = time.monotonic()

    @property
    def from_start(self) -> bool:
        """Whether the stage began here, and not at a checkpoint."""
        return self._found is None

    def before_engine(self, model: Any) -> None:
        """Gives the model the weights that it goes on from, before the engine takes it apart."""
        if self._found:
            state.load_weights(model, self._tensors)

    def after_engine(self, engine: Any) -> Running:
        """Gives the engine the optimiser's state that it goes on from; how far the stage has come."""
        if self._found is None:
            return Running()
        state.restore(engine, self._tensors, self._behind + self._found.step)
        self._tensors = {}
        if self._context.rank == 0:
            self._context.say(f"goes on from the checkpoint after step {self._found.step}")
        return Running(curve=self._found.curve, before=self._found.seconds)

    def wish(self, run: Running) -> int:
        """What rank 0 wishes after the step that begins now; the other ranks hear it with the loss."""
        if self._context.rank:
            return NOTHING
        if self._context.leave():
            return LEAVE
        steps, minutes = self._when["every_steps"], self._when["every_minutes"]
        due = bool(steps and (run.step + 1) % steps == 0)
        return SAVE if due or (minutes and time.monotonic() - self._last >= 60 * minutes) else NOTHING

    def save(self, engine: Any, run: Running) -> None:
        """Copies the state to the host's memory and begins to write it."""
        rank, world = self._context.rank, self._context.world
        self._last = time.monotonic()
        self._checkpoints.save(
            state.read(engine, rank, world),
            rank,
            world,
            self._attempt,
            step=run.step,
            mixture=self._order.mixture,
            curve=list(run.curve),
            seconds=run.seconds,
        )

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpoints.close()
