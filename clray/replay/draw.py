"""Which earlier examples are shown again: exact quotas, a seeded draw, and a receipt of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.lineage.key import digest
from clray.replay.inscl import Evidence, sample
from clray.replay.quotas import largest_remainder


@dataclass(frozen=True)
class Index:
    """What a draw needs to know of a record set: its digest, and the tokens and the instruction of each example.

    `instructions` are the distinct instruction texts, sorted; `instruction_of` is the number of each example's.
    """

    name: str
    digest: str
    tokens: NDArray[np.int64]
    instructions: tuple[str, ...] = ("",)
    instruction_of: NDArray[np.int32] | None = None

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(self.tokens)

    @property
    def groups(self) -> NDArray[np.int32]:
        """The instruction of each example."""
        return np.zeros(self.rows, np.int32) if self.instruction_of is None else self.instruction_of

    @property
    def rows_by_instruction(self) -> NDArray[np.int64]:
        """Number of examples of each instruction."""
        return np.bincount(self.groups, minlength=len(self.instructions)).astype(np.int64)


@dataclass(frozen=True)
class Draw:
    """The examples of one earlier stage that are shown again: sorted row numbers, what was asked, and why."""

    origin: Index
    rows: NDArray[np.int64]
    asked: int
    unit: str
    reasons: dict[str, Any] = field(default_factory=dict)

    def receipt(self) -> dict[str, Any]:
        """The draw as a record: quota asked, examples and tokens drawn, and the digest of the row numbers."""
        return {
            "stage": self.origin.name,
            "records": self.origin.digest,
            "unit": self.unit,
            "asked": self.asked,
            "rows": len(self.rows),
            "of_rows": self.origin.rows,
            "tokens": int(self.origin.tokens[self.rows].sum()),
            "row_numbers": self.rows.tolist(),
            "rows_digest": digest(self.rows.tolist()),
            **self.reasons,
        }


def whole(origin: Index) -> Draw:
    """All examples of a record set, once."""
    return Draw(origin, np.arange(origin.rows, dtype=np.int64), origin.rows, "examples")


def draw(
    replay: dict[str, Any], own: Index, past: Sequence[Index], seed: int, evidence: Evidence | None = None
) -> list[Draw]:
    """One draw for each earlier stage, by the replay choice of the method.

    `share` s of a mixture over n own units asks for s / (1 - s) * n replayed units, so that s is the share
    of the whole. The draw depends on the seed, the content of the sets and (InsCL) the `evidence` alone. In
    units of tokens a draw ends at the example that brings it nearest to its quota.
    """
    if replay["kind"] == "none" or not past:
        return []
    unit = replay.get("of", "examples") if "share" in replay else "examples"
    quotas = quotas_of(replay, own, past, evidence)
    generators = [_generator(seed, own, origin, position) for position, origin in enumerate(past)]
    if evidence is not None:
        return [
            _take_by_instruction(origin, quota, generator, evidence, position)
            for position, (origin, quota, generator) in enumerate(zip(past, quotas, generators, strict=True))
        ]
    return [_take(*item, unit) for item in zip(past, quotas, generators, strict=True)]


def quotas_of(replay: dict[str, Any], own: Index, past: Sequence[Index], evidence: Evidence | None = None) -> list[int]:
    """Units to replay of each earlier stage. Without its evidence InsCL counts as balanced."""
    in_tokens = "share" in replay and replay.get("of") == "tokens"
    sizes = [int(origin.tokens.sum()) if in_tokens else origin.rows for origin in past]
    match replay:
        case {"rows": rows}:
            total = rows
        case {"rows_per_past_task": rows}:
            total = rows * len(past)
        case {"share": share}:
            total = round(share / (1 - share) * (int(own.tokens.sum()) if in_tokens else own.rows))
    if evidence is not None:
        return largest_remainder(evidence.weights(), total, sizes)
    if replay["kind"] == "random" and "rows_per_past_task" not in replay:
        return largest_remainder(sizes, total, sizes)
    if replay["kind"] != "inscl" and "rows_per_past_task" in replay:
        return [min(replay["rows_per_past_task"], size) for size in sizes]
    return largest_remainder([1.0] * len(past), total, sizes)


def _generator(seed: int, own: Index, origin: Index, position: int) -> np.random.Generator:
    return np.random.default_rng(int(digest([seed, own.digest, origin.digest, position]), 16))


def _take(origin: Index, quota: int, generator: np.random.Generator, unit: str) -> Draw:
    order = generator.permutation(origin.rows)
    if unit == "examples":
        return Draw(origin, np.sort(order[:quota]), quota, unit)
    sums = np.concatenate([[0], np.cumsum(origin.tokens[order])])
    count = int(np.argmin(np.abs(sums - quota)))
    return Draw(origin, np.sort(order[:count]), quota, unit)


def _take_by_instruction(
    origin: Index, quota: int, generator: np.random.Generator, evidence: Evidence, position: int
) -> Draw:
    if evidence.insinfo is None:
        rows = np.sort(generator.permutation(origin.rows)[:quota])
    else:
        rows = sample(quota, origin.groups, evidence.insinfo[position], generator)
    counts = np.bincount(origin.groups[rows], minlength=len(origin.instructions))
    reasons = evidence.reasons(position, origin.instructions, counts, origin.rows_by_instruction)
    return Draw(origin, rows, quota, "examples", reasons)
