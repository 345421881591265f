"""Where a rank stands while it trains, and whom it talks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from clray.train.order import Progress

T = TypeVar("T")


def _silent(text: str) -> None:
    """Says nothing."""


def _stay() -> bool:
    """Nobody wants the group to leave."""
    return False


@dataclass(frozen=True)
class Context:
    """A rank's number, how many there are, its device, and whom it talks to.

    Rank 0 tells `report` of progress and asks `leave` after each step whether it is to go; every rank may `say`
    something that a person should read.
    """

    rank: int
    world: int
    device: torch.device
    report: Callable[[Progress], None]
    say: Callable[[str], None] = _silent
    leave: Callable[[], bool] = _stay

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank. Every rank must call it."""
        if self.world == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank. Every rank must call it."""
        if self.world == 1:
            return [value]
        values: list[T] = [value] * self.world
        torch.distributed.all_gather_object(values, value)
        return values
