"""What a training group is told to do: one stage, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StageOrder:
    """One stage to train.

    `key` names the generation to be made, `parent` the one to start from, `mixture` the digest of the packed
    shards. `recipe` is the resolved stage, which alone with seed, parent and mixture decides the result;
    `compute` says how it is carried out. `pseudo` is the store's file of the task's pseudo-samples, "" without any.
    With `keep_state` the optimiser's state stays beside the generation, for the next stage. `parts` says to which part
    of the loss each origin of the mixture belongs, and what its targets weigh; empty: all alike. `teachers` are, where
    the regulariser has some, the generations whose predictions hold each origin; "": none. `references` is the
    store's folder of what the parent thinks of the preference pairs of an align stage, "" for any other.
    """

    storage: str
    key: str
    parent: str
    mixture: str
    recipe: dict[str, Any]
    seed: int
    compute: dict[str, Any]
    attention: str = "auto"
    trust_remote_code: bool = False
    pseudo: str = ""
    keep_state: bool = False
    parts: tuple[tuple[str, float], ...] = ()
    teachers: tuple[str, ...] = ()
    references: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a training group says of a running stage, now and then. Losses are means over target tokens."""

    key: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


class StageLeft(Exception):
    """The training group was told to leave, and left the stage with a checkpoint after `step` optimiser steps."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a training group made: files written below the generation's folder, and what it took."""

    key: str
    base: str
    files: dict[str, str]
    training: dict[str, Any]
    curve: list[dict[str, float]] = field(default_factory=list)
