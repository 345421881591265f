"""Exact shares of a whole number: who gets how many."""

from __future__ import annotations

from collections.abc import Sequence


def largest_remainder(weights: Sequence[float], total: int, capacities: Sequence[int]) -> list[int]:
    """Whole quotas in proportion to `weights` that sum to min(total, sum of capacities).

    Hamilton's method: floors first, then one more each to the largest remainders, ties to the earlier one.
    What exceeds a capacity is shared out again among the others. All-zero weights count as equal ones.
    """
    if len(weights) != len(capacities):
        raise ValueError(f"{len(weights)} weights for {len(capacities)} capacities")
    if any(weight < 0 for weight in weights) or total < 0:
        raise ValueError(f"weights and total must not be negative; found {list(weights)} and {total}")
    quotas = [0] * len(weights)
    left = min(total, sum(capacities))
    while left:
        open_ = [i for i, capacity in enumerate(capacities) if quotas[i] < capacity]
        scale = sum(weights[i] for i in open_)
        shares = [left * (weights[i] / scale if scale else 1 / len(open_)) for i in open_]
        grants = _round(shares, left)
        for i, grant in zip(open_, grants, strict=True):
            quotas[i] = min(capacities[i], quotas[i] + grant)
        left = min(total, sum(capacities)) - sum(quotas)
    return quotas


def _round(shares: list[float], total: int) -> list[int]:
    floors = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (floors[i] - shares[i], i))
    for i in by_remainder[: total - sum(floors)]:
        floors[i] += 1
    return floors
