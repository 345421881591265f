"""Which stage gave a task how much, and which cost it how much, along the ancestry of a generation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from clray.errors import ModelError
from clray.history.archive import Archive
from clray.history.diff import results_of
from clray.history.paired import Difference, difference
from clray.lineage.generation import Generation
from clray.spec.task import LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as it was measured: its name, the digest it is kept under, and its metric."""

    name: str
    digest: str
    metric: str

    @property
    def lower(self) -> bool:
        """Whether a lower score is the better one."""
        return self.metric in LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Step:
    """A measured generation: its score, and what changed since the measured one before it (None for the first).

    `stages` are those in between, its own last: more than one where some were not measured.
    """

    made: Generation
    score: float
    stages: list[str]
    change: Difference | None


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The steps, the root first, and the keys of those that gave and cost the most (None where none did)."""

    task: Task
    steps: list[Step]
    gave: str | None
    cost: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "task": self.task.name,
            "digest": self.task.digest,
            "metric": self.task.metric,
            "steps": [
                {
                    "key": step.made.key,
                    "index": step.made.index,
                    "stages": step.stages,
                    "score": step.score,
                    "change": step.change and step.change.to_dict(),
                }
                for step in self.steps
            ],
            "gave_most": self.gave,
            "cost_most": self.cost,
        }


def blame(archive: Archive, task: str, wanted: str | None = None) -> Blame:
    """What each stage up to generation `wanted` (the newest without it) did to the task."""
    line = archive.line(wanted)
    found, store = task_of(archive, line, task), archive.store
    steps: list[Step] = []
    before: list[dict[str, Any]] | None = None
    stages: list[str] = []
    for made in line:
        stages.append(made.stage_name)
        results = results_of(store, made.key, found.digest)
        cell = store.score(made.key, found.digest)
        if results is None or cell is None:
            continue
        change = None if before is None else difference(found.metric, before, results)
        steps.append(Step(made=made, score=cell["metrics"][found.metric], stages=stages, change=change))
        before, stages = results, []
    sign = -1 if found.lower else 1
    moved = {step.made.key: sign * step.change.change for step in steps if step.change}
    most, least = max(moved, key=lambda k: moved[k], default=None), min(moved, key=lambda k: moved[k], default=None)
    return Blame(
        task=found,
        steps=steps,
        gave=most if most and moved[most] > 0 else None,
        cost=least if least and moved[least] < 0 else None,
    )


def task_of(archive: Archive, line: list[Generation], wanted: str) -> Task:
    """The task of that name, or of the digest that begins so, on which generations of the line were measured.

    ModelError where there is none, or several of that name; then the digest says which.
    """
    brief = {entry.key: entry.scores for entry in archive.entries}
    cells: Counter[str] = Counter()
    known: dict[str, Task] = {}
    for made in line:
        for digest, (name, metric, _) in brief[made.key].items():
            cells[digest] += 1
            known[digest] = Task(name=name, digest=digest, metric=metric)
    found = [task for task in known.values() if task.name == wanted or task.digest.startswith(wanted)]
    named = [task for task in found if task.name == wanted] or found
    if len(named) == 1:
        return named[0]
    where = f"on the way to {line[-1].stage_name} {line[-1].short}"
    if named:
        ways = ", ".join(f"{task.digest[:10]} ({cells[task.digest]} generations)" for task in named)
        raise ModelError(f"task '{wanted}' was measured in several ways {where}: {ways}; give one of these digests")
    names = ", ".join(sorted({task.name for task in known.values()})) or "none"
    raise ModelError(f"task '{wanted}' was never measured {where}; measured tasks are {names}")
