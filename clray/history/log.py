"""The tree of generations, one line each: a straight line of descent stays straight, a branch stands beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from clray.history.archive import Archive
from clray.lineage.catalogue import Entry

FEW_TASKS = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """A generation with its place in the tree: `rails` are the strokes before it."""

    rails: str
    entry: Entry
    aliases: list[str]


@dataclass(frozen=True, kw_only=True)
class Log:
    """The tree, top down, and what all of it cost."""

    lines: list[Line]
    tokens: int
    seconds: float
    flops: float
    joules: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = [field.name for field in fields(Entry)]
        rows = [{**{n: getattr(line.entry, n) for n in names}, "aliases": line.aliases} for line in self.lines]
        cost = {"tokens": self.tokens, "seconds": self.seconds, "flops": self.flops, "joules": self.joules}
        return {"generations": rows, "cost": cost}


def log(archive: Archive) -> Log:
    """The tree of all generations: each below its parent, branches before what goes on."""
    lines = [
        Line(rails=rails, entry=entry, aliases=archive.names.get(entry.key, []))
        for root in archive.children[None]
        for rails, entry in _drawn(root, archive.children)
    ]
    every = archive.entries
    return Log(
        lines=lines,
        tokens=sum(entry.tokens for entry in every),
        seconds=sum(entry.seconds for entry in every),
        flops=sum(entry.flops for entry in every),
        joules=sum(entry.joules for entry in every),
    )


def _drawn(root: Entry, children: dict[str | None, list[Entry]]) -> Iterator[tuple[str, Entry]]:
    """Each generation below the root with its strokes. The largest branch goes on in its parent's column."""
    sizes = _sizes(root, children)
    waiting = [("", "", root)]
    while waiting:
        before, stroke, entry = waiting.pop()
        yield before + stroke, entry
        inside = before + ("│ " if stroke else "")
        below = children.get(entry.key, [])
        if below:
            straight = max(below, key=lambda child: sizes[child.key])
            waiting.append((inside, "", straight))
            waiting += [(inside, "├─", child) for child in reversed(below) if child is not straight]


def _sizes(root: Entry, children: dict[str | None, list[Entry]]) -> dict[str, int]:
    """Number of generations in each branch, counted without recursion: a line may be thousands long."""
    order, waiting = [], [root]
    while waiting:
        entry = waiting.pop()
        order.append(entry)
        waiting += children.get(entry.key, [])
    sizes: dict[str, int] = {}
    for entry in reversed(order):
        sizes[entry.key] = 1 + sum(sizes[child.key] for child in children.get(entry.key, []))
    return sizes


def scores_in_words(entry: Entry) -> str:
    """Each task's score where they are few, else the mean over the tasks of each metric."""
    named = {task: (metric, score) for task, metric, score in entry.scores.values()}
    if len(named) <= FEW_TASKS:
        return "  ".join(f"{task} {score:.3f}" for task, (_, score) in named.items())
    units = defaultdict(list)
    for metric, score in named.values():
        units[metric].append(score)
    return "  ".join(f"{metric} {fmean(values):.3f} over {len(values)} tasks" for metric, values in units.items())
