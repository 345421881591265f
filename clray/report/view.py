"""The outcome as the report reads it: lines, their generations, the units of their scores, colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clray.report.numbers import Unit, finite

NUM_COLOURS = 16


@dataclass(frozen=True)
class Line:
    """One run through the stages: the stream itself (number 0) or a control.

    `selection` is what a shared attention selects in the last generation; None without one. `rejected` are generations
    that did not pass their gate, with their `scores` by task.
    """

    number: int
    name: str
    matrix: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    generations: list[dict[str, Any]]
    selection: dict[str, Any] | None = None
    rejected: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_stream(self) -> bool:
        """Whether this is the stream, not a control."""
        return self.number == 0

    @property
    def stages(self) -> list[str]:
        """Stage of each row of the matrix, "base" first."""
        return list(self.matrix["stages"])

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order they are taught, probes last."""
        order = {task: self.learned_at(task) for task in self.matrix["tasks"]}
        return sorted(order, key=lambda task: (order[task] is None, order[task] or 0))

    def learned_at(self, task: str) -> int | None:
        """Index of the generation whose stage teaches the task; None for a probe."""
        index: int | None = self.matrix["learned_at"].get(task)
        return index

    def unit(self, task: str) -> Unit:
        """Unit of the task's scores."""
        return Unit(self.matrix["metrics"][task])

    def column(self, task: str) -> list[float | None]:
        """The task's score at each generation."""
        column = self.matrix["tasks"].index(task)
        return [finite(row[column]) for row in self.matrix["R"]]


@dataclass(frozen=True)
class View:
    """All lines of an outcome, and what they share.

    `experts` are scores of models trained on one task alone, `similarity` the cosines between domains or stages.
    """

    lines: list[Line]
    experts: dict[str, float] = field(default_factory=dict)
    similarity: dict[str, Any] | None = None

    @classmethod
    def of(cls, outcome: dict[str, Any]) -> View:
        """The view of an outcome's JSON."""
        fields = ("name", "matrix", "metrics", "generations")
        lines = [
            Line(
                number,
                **{f: line[f] for f in fields},
                selection=line.get("selection"),
                rejected=line.get("rejected") or [],
            )
            for number, line in enumerate(outcome["lines"])
        ]
        return cls(lines, outcome.get("experts") or {}, outcome.get("similarity"))

    @property
    def stream(self) -> Line:
        """The line that the report is about."""
        return self.lines[0]

    @property
    def controls(self) -> list[Line]:
        """The lines beside it."""
        return self.lines[1:]

    @cached_property
    def units(self) -> list[Unit]:
        """The units of all scores, in the order of the stream's tasks."""
        return list(dict.fromkeys(line.unit(task) for line in self.lines for task in line.tasks))

    @cached_property
    def tasks(self) -> list[str]:
        """All tasks, in the order the stream teaches them."""
        return list(dict.fromkeys(task for line in self.lines for task in line.tasks))

    @cached_property
    def stages(self) -> list[str]:
        """All stages but "base", the stream's first."""
        made = (g for line in self.lines for g in (*line.generations, *line.rejected) if g["index"])
        return list(dict.fromkeys(g["stage_name"] for g in made))

    @cached_property
    def own_generations(self) -> list[tuple[Line, list[dict[str, Any]]]]:
        """For each line the generations that no earlier line has: a shared prefix belongs to the first."""
        seen: set[str] = set()
        own = []
        for line in self.lines:
            own.append((line, [g for g in line.generations if g["key"] not in seen]))
            seen |= {g["key"] for g in line.generations}
        return own

    @cached_property
    def _has_built(self) -> bool:
        return any(g.get("built") for line in self.lines for g in line.generations)

    def is_reused(self, generation: dict[str, Any]) -> bool:
        """Whether the run that made this outcome trained others, but found this one in the lineage."""
        return self._has_built and bool(generation["index"]) and not generation.get("built")

    @cached_property
    def _colours(self) -> dict[tuple[str, str], int]:
        taught: dict[tuple[str, str], int] = {("stage", name): n for n, name in enumerate(self.stages)}
        for line in self.lines:
            for task in line.tasks:
                index = line.learned_at(task)
                stage = line.stages[index] if index is not None and index < len(line.stages) else ""
                first = next((t for t in line.tasks if line.learned_at(t) == index), task)
                shared = taught.get(("stage", stage)) if first == task and stage else None
                number = len(set(taught.values())) if shared is None else shared
                taught.setdefault(("task", task), number)
        return taught

    def stage_colour(self, stage: str) -> str:
        """CSS colour of a stage; grey for the base model."""
        number = self._colours.get(("stage", stage))
        return "var(--ink-3)" if number is None else f"var(--t{number % NUM_COLOURS})"

    def task_colour(self, task: str) -> str:
        """CSS colour of a task: that of the stage that teaches it, where it is the stage's first."""
        return f"var(--t{self._colours[('task', task)] % NUM_COLOURS})"

    def domain(self, unit: Unit) -> tuple[float, float]:
        """Lowest and highest score of a unit over all lines; 0 to 1 for fractions."""
        return self._domains[unit]

    @cached_property
    def _domains(self) -> dict[Unit, tuple[float, float]]:
        scores: dict[Unit, list[float]] = {unit: [] for unit in self.units}
        for line in self.lines:
            for task in line.tasks:
                scores[line.unit(task)] += [score for score in line.column(task) if score is not None]
        return {u: (min(found), max(found)) if u.lower and found else (0.0, 1.0) for u, found in scores.items()}
