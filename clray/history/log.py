"""The tree of generations, one line each: a straight line of descent stays straight, a branch stands beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from clray.history.archive import Archive
from clray.history.trials import trials_of
from clray.lineage.catalogue import Entry
from clray.lineage.ledger import NEWEST

FEW_TASKS = 3
MARK = 4
"""Digits of a task's digest that tell it from others of its name; commands take them in place of the name."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A generation with its place in the tree: `rails` are the strokes before it; `trials` those of sweeps that ended
    in it."""

    rails: str
    entry: Entry
    aliases: list[str]
    trials: list[str]


@dataclass(frozen=True, kw_only=True)
class Log:
    """The tree, top down, and what all of it cost. `tasks` are the digests of the tasks that go by name alone."""

    lines: list[Line]
    tasks: set[str]
    tokens: int
    seconds: float
    flops: float
    joules: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = [field.name for field in fields(Entry)]
        rows = [
            {**{n: getattr(line.entry, n) for n in names}, "aliases": line.aliases, "trials": line.trials}
            for line in self.lines
        ]
        cost = {"tokens": self.tokens, "seconds": self.seconds, "flops": self.flops, "joules": self.joules}
        return {"generations": rows, "cost": cost}


def log(archive: Archive) -> Log:
    """The tree of all generations: each below its parent, branches before what goes on."""
    trials = trials_of(archive.store)
    lines = [
        Line(
            rails=rails, entry=entry, aliases=archive.names.get(entry.key, []), trials=sorted(trials.get(entry.key, []))
        )
        for root in archive.children[None]
        for rails, entry in _drawn(root, archive.children)
    ]
    every = archive.entries
    newest = [line.entry for line in lines if any(name.rpartition("@")[2] == NEWEST for name in line.aliases)]
    return Log(
        lines=lines,
        tasks=plain_tasks(every, newest),
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


def plain_tasks(entries: Sequence[Entry], newest: Sequence[Entry]) -> set[str]:
    """Digests of the tasks that are shown by their name alone: of several of one name (a test and a dev split, say)
    the one that the newest generations are measured on, else the one that most are measured on."""
    every, of_newest = (Counter(digest for e in found for digest in e.scores) for found in (entries, newest))
    best: dict[str, str] = {}
    names = {digest: name for entry in entries for digest, (name, *_) in entry.scores.items()}
    for digest in sorted(names, key=lambda digest: (of_newest[digest], every[digest], digest)):
        best[names[digest]] = digest
    return set(best.values())


def named(task: str, digest: str, plain: set[str]) -> str:
    """The task's name, with the beginning of its digest where another task goes by the name alone."""
    return task if digest in plain else f"{task} ({digest[:MARK]})"


def scores_in_words(entry: Entry, plain: set[str]) -> str:
    """Each task's score where they are few, else the mean over the tasks of each metric. Tasks that share their name
    with another are shown where nothing else is measured."""
    shown = {digest: cell for digest, cell in entry.scores.items() if digest in plain} or entry.scores
    if len(shown) <= FEW_TASKS:
        cells = sorted((named(task, digest, plain), score) for digest, (task, _, score) in shown.items())
        return "  ".join(f"{name} {score:.3f}" for name, score in cells)
    units = defaultdict(list)
    for _, metric, score in shown.values():
        units[metric].append(score)
    return "  ".join(f"{metric} {fmean(values):.3f} over {len(values)} tasks" for metric, values in units.items())
