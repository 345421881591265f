"""In which order trials run, so that they share most; and how many stage trainings that takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Trainings:
    """Stage trainings of a sweep: `alone` if no trial shared with another, `needed` with sharing, and of these those
    that are in the store already."""

    alone: int
    needed: int
    there: int

    @property
    def saved(self) -> int:
        """Trainings that sharing saves."""
        return self.alone - self.needed

    @property
    def left(self) -> int:
        """Trainings still to be done."""
        return self.needed - self.there


def trainings(chains: Sequence[Keys], there: Collection[str] = ()) -> Trainings:
    """The stage trainings of chains of keys; `there` are keys of generations that exist."""
    different = {key for chain in chains for key in chain}
    return Trainings(sum(map(len, chains)), len(different), len(different & set(there)))


def order(chains: Sequence[Keys], lanes: int = 1) -> list[int]:
    """Numbers of the chains in the order in which `lanes` at a time take them.

    Depth first through the tree of shared beginnings, in which branches keep the order in which they came: a trial
    shares most with the one before it, and whenever the sweep is stopped, most trials are complete. Several lanes
    begin at different places of that order, since two that stand side by side would wait for each other.
    """
    first: dict[Keys, int] = {}
    for number, chain in enumerate(chains):
        for depth in range(1, len(chain) + 1):
            first.setdefault(chain[:depth], number)
    places = [[first[chain[:depth]] for depth in range(1, len(chain) + 1)] for chain in chains]
    deep = sorted(range(len(chains)), key=lambda number: (places[number], number))
    length = -(-len(deep) // lanes)
    pieces = [deep[start : start + length] for start in range(0, len(deep), length)] if deep else []
    return [piece[at] for at in range(length) for piece in pieces if at < len(piece)]
