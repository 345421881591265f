"""Packs token sequences into rows of a fixed length, without losing a token. Pure functions."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Tokens `start:stop` of example `example`; `context` leading tokens are repeated and carry no loss."""

    example: int
    start: int
    stop: int
    context: int

    @property
    def length(self) -> int:
        """Number of tokens that the piece takes in a row."""
        return self.stop - self.start


def cut(lengths: Sequence[int], capacity: int) -> list[Piece]:
    """Pieces of at most `capacity` tokens that cover each example.

    A later piece repeats the last token before it as context, so that every token but an example's first
    is predicted exactly once.
    """
    pieces = []
    for example, length in enumerate(lengths):
        start, context = 0, 0
        while True:
            stop = min(length, start + capacity)
            pieces.append(Piece(example, start, stop, context))
            if stop == length:
                break
            start, context = stop - 1, 1
    return pieces


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices into `lengths`, each row's sum at most `capacity`; every index stands in exactly one.

    Longest first, each into the fullest row that still has room (Johnson, 1974): at most 11/9 of the
    optimal number of rows plus one. Ties go to the earlier index, so equal input gives equal rows.
    """
    rows: list[list[int]] = []
    room: dict[int, list[int]] = {}
    sizes: list[int] = []
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = lengths[index]
        assert 0 < length <= capacity, f"a piece of {length} tokens cannot stand in a row of {capacity}"
        at = bisect_left(sizes, length)
        if at < len(sizes):
            size = sizes[at]
            row = room[size].pop()
            if not room[size]:
                del room[size]
                sizes.pop(at)
        else:
            size, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = size - length
        if left:
            if left not in room:
                insort(sizes, left)
                room[left] = []
            room[left].append(row)
    return rows
