"""Which earlier examples are shown again: exact quotas, a seeded draw, and a receipt of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.lineage.key import digest
from clray.replay.quotas import largest_remainder


@dataclass(frozen=True)
class Index:
    """What a draw needs to know of a record set: its digest and the tokens of each example, in order."""

    name: str
    digest: str
    tokens: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(self.tokens)


@dataclass(frozen=True)
class Draw:
    """The examples of one earlier stage that are shown again: sorted row numbers, and what was asked."""

    origin: Index
    rows: NDArray[np.int64]
    asked: int
    unit: str

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
        }


def draw(replay: dict[str, Any], own: Index, past: Sequence[Index], seed: int) -> list[Draw]:
    """One draw for each earlier stage, by the replay choice of the method.

    `share` s of a mixture over n own units asks for s / (1 - s) * n replayed units, so that s is the share
    of the whole. The draw depends on the seed and the content of the sets alone. In units of tokens a draw
    ends at the example that brings it nearest to its quota.
    """
    if replay["kind"] == "none" or not past:
        return []
    unit = "examples" if "rows_per_past_task" in replay else replay.get("of", "examples")
    quotas = _quotas(replay, own, past, unit)
    return [
        _take(origin, quota, unit, _generator(seed, own, origin, position))
        for position, (origin, quota) in enumerate(zip(past, quotas, strict=True))
    ]


def _quotas(replay: dict[str, Any], own: Index, past: Sequence[Index], unit: str) -> list[int]:
    sizes = [origin.rows if unit == "examples" else int(origin.tokens.sum()) for origin in past]
    if "rows_per_past_task" in replay:
        total = replay["rows_per_past_task"] * len(past)
    else:
        share = replay["share"]
        total = round(share / (1 - share) * (own.rows if unit == "examples" else int(own.tokens.sum())))
    match replay["kind"], "rows_per_past_task" in replay:
        case "random", False:
            return largest_remainder(sizes, total, sizes)
        case "balanced", False:
            return largest_remainder([1.0] * len(past), total, sizes)
        case _:
            return [min(replay["rows_per_past_task"], size) for size in sizes]


def _generator(seed: int, own: Index, origin: Index, position: int) -> np.random.Generator:
    return np.random.default_rng(int(digest([seed, own.digest, origin.digest, position]), 16))


def _take(origin: Index, quota: int, unit: str, generator: np.random.Generator) -> Draw:
    order = generator.permutation(origin.rows)
    if unit == "examples":
        return Draw(origin, np.sort(order[:quota]), quota, unit)
    sums = np.concatenate([[0], np.cumsum(origin.tokens[order])])
    count = int(np.argmin(np.abs(sums - quota)))
    return Draw(origin, np.sort(order[:count]), quota, unit)
