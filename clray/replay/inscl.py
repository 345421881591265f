"""InsCL: how much of each earlier stage, and which examples (arXiv 2403.11435, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT_IN_RECEIPT = 160


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What InsCL knows of the earlier stages, in their order.

    `distances`: Wasserstein distance between the instructions of each and the new stage's, None where quotas do
    not follow it; `insinfo`: InsInfo of each distinct instruction of each, None where the choice is random;
    `tags`: the tags behind it. `solver` and `why` say how the distances were computed.
    """

    quotas_by: str
    distances: tuple[float, ...] | None
    insinfo: tuple[NDArray[np.float64], ...] | None
    tags: tuple[tuple[tuple[str, ...], ...], ...] | None
    stages: int
    solver: str = ""
    why: str = ""

    def weights(self) -> list[float]:
        """Weights of the quotas: W, 1 / W, or all equal. Distances that are all 0 count as equal ones.

        Inverted, a stage at distance 0 counts as one at a hundredth of the smallest distance above 0.
        """
        if self.distances is None or not any(self.distances):
            return [1.0] * self.stages
        if self.quotas_by == "distance":
            return list(self.distances)
        least = min(w for w in self.distances if w > 0) / 100
        return [1 / max(w, least) for w in self.distances]

    def spread(self) -> float:
        """Largest weight over the smallest: near 1, the quotas are as good as equal."""
        weights = self.weights()
        return max(weights) / min(weights) if min(weights) > 0 else float("inf")

    def reasons(
        self, position: int, texts: Sequence[str], counts: NDArray[np.int64], of_rows: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Receipt of one earlier stage: its distance, and for each instruction that is shown again how much and why."""
        shown: list[int] = np.flatnonzero(counts).tolist()
        instructions = [
            {
                "text": texts[i][:TEXT_IN_RECEIPT],
                "rows": int(counts[i]),
                "of_rows": int(of_rows[i]),
                **({} if self.insinfo is None else {"insinfo": float(self.insinfo[position][i])}),
                **({} if self.tags is None else {"tags": list(self.tags[position][i])}),
            }
            for i in shown
        ]
        distance = (
            {}
            if self.distances is None
            else {"distance": self.distances[position], "solver": self.solver, "solver_because": self.why}
        )
        return {**distance, "distinct_instructions": len(texts), "instructions": instructions}


def sample(
    quota: int, instruction_of: NDArray[np.int32], insinfo: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Sorted numbers of `quota` rows (all, where there are fewer), chosen by InsInfo.

    Fewer rows than instructions: one random row of each of the highest in InsInfo, ties to the earlier one. Else
    max(1, floor(share of InsInfo x quota)) random rows of each, then random rows more, or fewer without taking an
    instruction's last one, until the sum fits. Where InsInfo is 0 throughout, shares are equal. Departure from
    InsCL_sampling.py, which raises where an instruction has fewer rows than that: it gives what it has.
    """
    capacities = np.bincount(instruction_of, minlength=len(insinfo))
    quota = min(quota, len(instruction_of))
    order = generator.permutation(len(instruction_of))
    by_instruction = order[np.argsort(instruction_of[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(capacities)[:-1]])
    present = np.flatnonzero(capacities)
    if quota < len(present):
        highest = present[np.argsort(-insinfo[present], kind="stable")][:quota]
        return np.sort(by_instruction[starts[highest]]).astype(np.int64)
    total = insinfo.sum()
    shares = insinfo / total if total > 0 else np.full(len(insinfo), 1 / max(1, len(present)))
    wanted = np.maximum(1, np.floor(shares * quota)).astype(np.int64)
    counts = np.minimum(wanted, capacities)
    taken = np.concatenate([by_instruction[s : s + c] for s, c in zip(starts, counts, strict=True)])
    if len(taken) < quota:
        rest = np.setdiff1d(np.arange(len(instruction_of)), taken)
        taken = np.concatenate([taken, generator.choice(rest, quota - len(taken), replace=False)])
    firsts = by_instruction[starts[present]]
    spare = np.setdiff1d(taken, firsts)
    dropped = generator.choice(spare, max(0, len(taken) - quota), replace=False)
    return np.sort(np.setdiff1d(taken, dropped)).astype(np.int64)
