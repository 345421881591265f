"""Where a long text is cut: pieces of so many tokens that share some with their neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

REACH = 16
"""Tokens that a cut moves back at most, so as not to fall inside a word."""


class Piece(NamedTuple):
    """Characters `start` to `stop` of a text, and the tokens that they were cut at."""

    start: int
    stop: int
    num_tokens: int


def cut(text: str, offsets: Sequence[tuple[int, int]], tokens: int, overlap: int) -> Iterator[Piece]:
    """Pieces of at most `tokens` tokens that cover the whole text, each with about `overlap` tokens of the one before.

    `offsets` are the characters of each token. A cut moves back to the beginning of a word where one is near.
    """
    reach = min(REACH, (tokens - overlap) // 4)
    start = 0
    while start < len(offsets):
        stop = _word(text, offsets, start + tokens, reach) if start + tokens < len(offsets) else len(offsets)
        yield Piece(offsets[start][0], offsets[stop - 1][1], stop - start)
        if stop == len(offsets):
            return
        start = _word(text, offsets, stop - overlap, reach)


def _word(text: str, offsets: Sequence[tuple[int, int]], token: int, reach: int) -> int:
    """The nearest token from `token` backwards that begins a word; `token` itself where none of `reach` does."""
    for near in range(token, token - reach, -1):
        place = offsets[near][0]
        if place == 0 or not (text[place - 1].isalnum() and text[place : place + 1].isalnum()):
            return near
    return token
