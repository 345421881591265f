"""What a stream comes to: stages with their keys, lines of them, and the cells to measure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from clray.data import records
from clray.evaluation.pseudo import PseudoSpec
from clray.evaluation.tasks import TaskSpec
from clray.evolving.round import RoundSpec
from clray.gating import GateSpec
from clray.lineage import collected
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.models.base import Base
from clray.similarity import Similarity
from clray.spec.recipe import Recipe
from clray.spec.stream import Stage, Stream


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of a line: the key of the generation it makes, and all that the key is made of.

    `shape` is that of the model it trains (see cost.model_shape). `keeps_state` says that the optimiser's state is
    wanted after it, by a later stage of any line. `generator` is the stage, trained alone, that writes
    the `pseudo` samples of this one, where it wants any. An evolve stage has a `round` instead of an `own` record set.
    `gate` is what it must pass to become a parent.
    `teachers` are, for regulariser der, the generations that learnt each of `past`.
    """

    stage: Stage
    index: int
    parent: str
    key: str
    recipe: Recipe
    parent_stage: dict[str, Any]
    replay: dict[str, Any]
    own: records.RecordSpec | None
    past: tuple[tuple[str, records.RecordSpec | RoundSpec], ...]
    seed: int
    shape: dict[str, int]
    keeps_state: bool = False
    generator: PlannedStage | None = None
    pseudo: PseudoSpec | None = None
    round: RoundSpec | None = None
    gate: GateSpec | None = None
    teachers: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        """Digests of what the stage itself is made of, for its key."""
        return self.round.sources if self.round else [self.own.digest] if self.own else []


@dataclass(frozen=True, kw_only=True)
class Line:
    """A chain of planned stages: the stream itself or one of its controls, the single-task expert of one stage, or
    the generator of one stage's pseudo-samples, which nothing is measured on. `rejected` are the stages, and the tries
    of stages, whose generations did not pass their gate: nothing stands on them."""

    name: str
    stream: Stream
    base: Base
    stages: tuple[PlannedStage, ...]
    role: Literal["chain", "expert", "generator"] = "chain"
    rejected: tuple[PlannedStage, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Keys of the line's generations, generation 0 first."""
        return [self.base.generation.key, *(stage.key for stage in self.stages)]

    def rounds_before(self, planned: PlannedStage) -> list[PlannedStage]:
        """The earlier rounds of the same evolve stage, as far as they are judged."""
        of = planned.round.round.of if planned.round else None
        rounds = [(one, one.round.round) for one in self.stages[: planned.index - 1] if one.round]
        return [one for one, asked in rounds if asked.of == of and asked.is_judged]

    def round_after(self, planned: PlannedStage) -> PlannedStage | None:
        """The round after it of the same evolve stage; None where there is none, where it is half a round, or where
        it was rejected."""
        onward = self.stages[planned.index] if planned.index < len(self.stages) else None
        here, there = planned.round, onward.round if onward else None
        if planned.key not in self.keys or not here or not there or not here.round.is_judged:
            return None
        return onward if here.round.of == there.round.of else None

    def learned_at(self, task: str) -> int | None:
        """Row of the generation that teaches the task; None for a probe. Where the stage that would teach it was
        rejected or is not come to, a row beyond the last."""
        taught = (one.index for one in self.stages if task in (one.stage.teaches or (one.stage.name,)))
        row = next(taught, None)
        if row is None and self.role == "chain":
            wanted = any(task in (stage.teaches or (stage.name,)) for stage in self.stream.stages)
            return len(self.stages) + 1 if wanted else None
        return row

    def tries_before(self, planned: PlannedStage) -> list[PlannedStage]:
        """The rejected tries of the same stage."""
        return [one for one in self.rejected if one.stage.name == planned.stage.name]

    def measures(self, task: str, index: int) -> bool:
        """Whether generation `index` of the line is measured on the task (see Evaluation.every and window)."""
        learned, evaluation = self.learned_at(task), self.stream.evaluation
        if self.role != "chain":
            return self.role == "expert" and learned == index
        if index in (0, len(self.stages)) or index % evaluation.every == 0:
            return True
        if learned is not None and index - evaluation.window < learned <= index:
            return True
        return any(stage.gate for stage in (*self.stages, *self.rejected))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All lines of a stream and the tasks they are measured on; `experts` and `generators` are lines of one stage."""

    stream: Stream
    store: Store
    lines: tuple[Line, ...]
    experts: tuple[Line, ...]
    generators: tuple[Line, ...]
    tasks: tuple[TaskSpec, ...]
    similarity: Similarity | None = None
    label: str = ""

    @property
    def folder(self) -> str:
        """Where the report goes: one folder for each stream, and below it for each combination of a benchmark."""
        return f"reports/{self.stream.name}/{self.label}".rstrip("/")

    @property
    def chains(self) -> tuple[Line, ...]:
        """Everything that is trained: generators, which lines need, then lines, then experts."""
        return (*self.generators, *self.lines, *self.experts)

    @cached_property
    def missing(self) -> list[PlannedStage]:
        """Stages whose generation is to be built: not in the store, or without the weights that something needs. Each
        key once, in the order they are built."""
        return [stage for stage in self._stages.values() if stage.key in self._absent or stage.key in self.lost]

    @cached_property
    def lost(self) -> set[str]:
        """Keys of generations whose weights were collected, and are needed: by a stage to train, a score to measure, or
        another of them."""
        gone = collected.all_of(self.store)
        if not gone:
            return set()
        wanted = {key for key, _ in self.missing_cells}
        for key, stage in reversed(self._stages.items()):
            if key in self._absent or (key in gone and key in wanted):
                wanted |= {stage.parent, *stage.teachers} | ({stage.generator.key} if stage.generator else set())
            made = self.store.generation(key) if key in wanted else None
            wanted |= {made.base} if made else set()
        return wanted & gone & set(self._stages)

    @cached_property
    def _stages(self) -> dict[str, PlannedStage]:
        """Every stage of every chain by its key, in the order they are built."""
        return {stage.key: stage for line in self.chains for stage in line.stages}

    @cached_property
    def _absent(self) -> set[str]:
        """Keys of the stages whose generation is not in the store."""
        return {key for key in self._stages if self.store.generation(key) is None}

    @cached_property
    def missing_cells(self) -> list[tuple[str, TaskSpec]]:
        """Cells of the score matrices that are not in the store."""
        return [(key, task) for key, task in self.cells if self.store.score(key, task.digest) is None]

    @cached_property
    def cells(self) -> list[tuple[str, TaskSpec]]:
        """Generation and task of every score that is wanted, each once."""
        wanted = {
            (key, task.digest): (key, task)
            for line in self.chains
            for index, key in enumerate(line.keys)
            for task in self.tasks_of(line, index)
        }
        return list(wanted.values())

    def tasks_of(self, line: Line, index: int) -> list[TaskSpec]:
        """The tasks on which generation `index` of the line is measured."""
        return [task for task in self.tasks if line.measures(task.task.name, index)]


def generation_of(plan: Plan, key: str) -> Generation:
    """The committed generation of the plan's key."""
    found = plan.store.generation(key)
    assert found is not None, f"generation {key} is not in the store"
    return found
