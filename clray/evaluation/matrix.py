"""The score matrix: what every generation can do on every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clray.spec.task import LOWER_IS_BETTER

Cell = float | None
GENERAL = "general"
"""Group of a probe that names none."""


@dataclass(frozen=True)
class ScoreMatrix:
    """R[t][i], the score of generation t (row 0: the base model) on task i, None where not measured.

    `metrics` names each task's score; `learned_at` the row of the generation whose stage teaches the task,
    None for a probe that no stage teaches. Several tasks may be taught by one generation, and a generation
    may teach none. A task whose row is still to come (`learned_at` beyond the last row) is not taught yet.
    `groups` says which kind of ability a task probes; a probe without one is of group "general".
    Raises ValueError where the shapes do not fit.
    """

    tasks: tuple[str, ...]
    metrics: Mapping[str, str]
    learned_at: Mapping[str, int | None]
    generations: tuple[str, ...]
    stages: tuple[str, ...]
    R: tuple[tuple[Cell, ...], ...]
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.R or not len(self.R) == len(self.generations) == len(self.stages):
            raise ValueError(
                "a score matrix has a row, a generation and a stage for each model, the base model at least; "
                f"got {len(self.R)} rows, {len(self.generations)} generations and {len(self.stages)} stages"
            )
        for row, stage in zip(self.R, self.stages, strict=True):
            if len(row) != len(self.tasks):
                raise ValueError(f"row '{stage}' has {len(row)} scores for {len(self.tasks)} tasks")
        for what, names in (("metrics", self.metrics), ("learned_at", self.learned_at)):
            if set(names) != set(self.tasks):
                raise ValueError(f"'{what}' names {sorted(names)}, but the tasks are {sorted(self.tasks)}")
        for task, learned in self.learned_at.items():
            if learned is not None and learned < 1:
                raise ValueError(f"task '{task}' is learned at row {learned}; row 0 is the base model")

    @property
    def learned_rows(self) -> list[int | None]:
        """`learned_at` in the order of the columns."""
        return [self.learned_at[task] for task in self.tasks]

    @property
    def columns_of(self) -> dict[str, list[int]]:
        """The columns of each group."""
        found: dict[str, list[int]] = {}
        for i, task in enumerate(self.tasks):
            group = self.groups.get(task) or (GENERAL if self.learned_at[task] is None else None)
            if group is not None:
                found.setdefault(group, []).append(i)
        return found

    @property
    def units(self) -> list[str]:
        """The metrics of the matrix, each once, in the order of the columns."""
        return list(dict.fromkeys(self.metrics[task] for task in self.tasks))

    def of(self, metric: str) -> ScoreMatrix:
        """The columns that are measured in this metric."""
        kept = [i for i, task in enumerate(self.tasks) if self.metrics[task] == metric]
        names = tuple(self.tasks[i] for i in kept)
        return ScoreMatrix(
            tasks=names,
            metrics={name: metric for name in names},
            learned_at={name: self.learned_at[name] for name in names},
            generations=self.generations,
            stages=self.stages,
            R=tuple(tuple(row[i] for i in kept) for row in self.R),
            groups={name: group for name, group in self.groups.items() if name in names},
        )

    def upto(self, row: int) -> ScoreMatrix:
        """The matrix as it stood after generation `row`."""
        stop = row + 1
        return replace(self, generations=self.generations[:stop], stages=self.stages[:stop], R=self.R[:stop])

    @property
    def lower_is_better(self) -> list[bool]:
        """For each column, whether a lower score is the better one."""
        return [self.metrics[task] in LOWER_IS_BETTER for task in self.tasks]

    def to_dict(self) -> dict[str, Any]:
        """The matrix as plain JSON values; `from_dict` takes them back."""
        return {
            "tasks": list(self.tasks),
            "metrics": dict(self.metrics),
            "learned_at": dict(self.learned_at),
            "generations": list(self.generations),
            "stages": list(self.stages),
            "R": [list(row) for row in self.R],
            **({"groups": dict(self.groups)} if self.groups else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoreMatrix:
        """The matrix of the plain values that `to_dict` gives."""
        return cls(
            tasks=tuple(values["tasks"]),
            metrics=dict(values["metrics"]),
            learned_at=dict(values["learned_at"]),
            generations=tuple(values["generations"]),
            stages=tuple(values["stages"]),
            R=tuple(tuple(row) for row in values["R"]),
            groups=dict(values.get("groups", {})),
        )

    def table(self, digits: int = 3) -> list[list[str]]:
        """Rows of text for printing: a heading (stage, then the tasks), then a row for each generation.

        A score right after the stage that teaches its task has a star; one that was not measured is a dash.
        """
        heading = ["stage", *(f"{task} ({self.metrics[task]})" for task in self.tasks)]
        learned = self.learned_rows
        rows = [
            [stage, *(_shown(score, digits, learned[i] == t) for i, score in enumerate(self.R[t]))]
            for t, stage in enumerate(self.stages)
        ]
        return [heading, *rows]


def _shown(score: Cell, digits: int, learned_here: bool) -> str:
    if score is None:
        return "–"
    return f"{score:.{digits}f}{'*' if learned_here else ''}"
