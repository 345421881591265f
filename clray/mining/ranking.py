"""The best of many by score, in one total order: of equal scores the lower number, which is the lower digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clray.ray_session import ANYWHERE

QUERIES = 512
"""Queries of one task."""


class Ranking(NamedTuple):
    """Numbers of passages and their scores, the best first."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]


def best(numbers: NDArray[Any], scores: NDArray[Any], k: int) -> Ranking:
    """The `k` of highest score; of equal ones those of lowest number."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= least)
        numbers, scores = numbers[near], scores[near]
    order = np.lexsort((numbers, -scores))[:k]
    return Ranking(numbers[order].astype(np.int64), scores[order].astype(np.float64))


def best_above_zero(scores: NDArray[Any], k: int) -> Ranking:
    """The `k` of highest score of those above 0, by place; no score is below 0.

    The bound is taken from all scores, since one pass over zeros costs less than picking out what is none.
    """
    least = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) > k else 0
    numbers = np.flatnonzero(scores >= least if least > 0 else scores)
    return best(numbers, scores[numbers], k)


def merge(found: Sequence[Ranking], k: int) -> Ranking:
    """The best of several rankings of different passages: what one ranking of them all would begin with."""
    return best(np.concatenate([one.numbers for one in found]), np.concatenate([one.scores for one in found]), k)


def bounds(count: int, shards: int) -> list[tuple[int, int]]:
    """First and last-but-one number of each of `shards` shards of nearly equal size, none of them empty."""
    shards = min(shards, count)
    return [(count * shard // shards, count * (shard + 1) // shards) for shard in range(shards)]


def search_shards(search: Callable[[int, Any], list[Ranking]], shards: int, queries: Any, k: int) -> list[Ranking]:
    """The best `k` of all shards for each query: `search` gives those of one shard for a slice of the queries.

    Each shard and each slice of queries is a Ray task; what comes out does not depend on either.
    """
    import ray

    task: Any = ray.remote(num_cpus=1, scheduling_strategy=ANYWHERE)(_apply)
    shared = ray.put(search)
    slices = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
    found = ray.get([task.remote(shared, shard, part) for part in slices for shard in range(shards)])
    return [
        merge(rankings, k)
        for number in range(len(slices))
        for rankings in zip(*found[number * shards : (number + 1) * shards], strict=True)
    ]


def _apply(search: Callable[[int, Any], list[Ranking]], shard: int, queries: Any) -> list[Ranking]:
    return search(shard, queries)
