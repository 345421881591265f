"""What a stream comes to before anything is spent: keys, data, steps, cost; what is cached, what is to build."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clray import cost
from clray.data import mixture, records
from clray.data.batches import BatchPlan, plan_batches
from clray.data.manifest import Manifest
from clray.errors import ModelError, ResourceError, StorageError
from clray.evaluation.tasks import TaskSpec
from clray.lineage.generation import Generation
from clray.lineage.key import generation_key
from clray.lineage.store import Store
from clray.models.base import Base, prepare_base
from clray.ray_session import quiet
from clray.replay.draw import Draw, draw
from clray.spec import loading
from clray.spec.recipe import Recipe, resolve
from clray.spec.stream import Stage, Stream


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of a line: the key of the generation it makes, and all that the key is made of."""

    stage: Stage
    index: int
    parent: str
    key: str
    recipe: Recipe
    parent_stage: dict[str, Any]
    own: records.RecordSpec
    past: tuple[tuple[str, records.RecordSpec], ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """The stream itself, or one of its controls: a chain of planned stages over one base model."""

    name: str
    stream: Stream
    base: Base
    stages: tuple[PlannedStage, ...]

    @property
    def keys(self) -> list[str]:
        """Keys of the line's generations, generation 0 first."""
        return [self.base.generation.key, *(stage.key for stage in self.stages)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All lines of a stream and the tasks they are measured on."""

    stream: Stream
    store: Store
    lines: tuple[Line, ...]
    tasks: tuple[TaskSpec, ...]

    @cached_property
    def missing(self) -> list[PlannedStage]:
        """Stages whose generation is not in the store, each key once, in the order they are built."""
        wanted = {stage.key: stage for line in self.lines for stage in line.stages}
        return [stage for key, stage in wanted.items() if self.store.generation(key) is None]

    @cached_property
    def missing_cells(self) -> list[tuple[str, TaskSpec]]:
        """Cells of the score matrices that are not in the store."""
        keys = dict.fromkeys(key for line in self.lines for key in line.keys)
        return [(key, task) for key in keys for task in self.tasks if self.store.score(key, task.digest) is None]


def make_plan(stream: Stream) -> Plan:
    """The plan of the stream. Finds and digests models and sources, but starts no Ray and trains nothing."""
    quiet(stream.compute.gpus_per_worker)
    store = Store(stream.storage)
    store.check_writable()
    lines = [plan_line("stream", stream, store)]
    lines += [plan_line(name, loading.variant(stream, name), store) for name in stream.controls]
    base = lines[0].base
    return Plan(
        stream=stream,
        store=store,
        lines=tuple(lines),
        tasks=tuple(_task(stream, number, base, store) for number in range(len(stream.tasks))),
    )


def plan_line(name: str, stream: Stream, store: Store) -> Line:
    """The chain of keys of one line."""
    base = prepare_base(stream, store, now())
    parent = base.generation.key
    parent_stage: dict[str, Any] = {}
    stages: list[PlannedStage] = []
    for index, stage in enumerate(stream.stages, 1):
        recipe = resolve(stream, stage, parent_stage, first=index == 1)
        _check_positions(stage, recipe, base)
        _check_batch(stream, stage, recipe)
        own = _records(stream, stage, recipe, base, store)
        earlier = stream.stages[: index - 1] if recipe.replays else ()
        past = tuple((old.name, _records(stream, old, recipe, base, store)) for old in earlier)
        key = generation_key(parent, recipe.resolved, [own.digest], [spec.digest for _, spec in past], stream.seed)
        stages.append(
            PlannedStage(
                stage=stage,
                index=index,
                parent=parent,
                key=key,
                recipe=recipe,
                parent_stage=parent_stage,
                own=own,
                past=past,
                seed=stream.seed,
            )
        )
        parent, parent_stage = key, recipe.resolved
    return Line(name=name, stream=stream, base=base, stages=tuple(stages))


def _records(stream: Stream, stage: Stage, recipe: Recipe, base: Base, store: Store) -> records.RecordSpec:
    """The record set of `stage`, cut to the sequence length of `recipe`."""
    return records.RecordSpec(
        kind=stage.kind,
        sources=records.open_sources(stage.data, store),
        tokenizer=str(store.fetch(f"tokenizers/{base.tokenizer_digest}")),
        tokenizer_digest=base.tokenizer_digest,
        form=stage.format if "format" in stage.model_fields_set else stream.format,
        limit=recipe.resolved["sequence_length"],
    )


def _check_positions(stage: Stage, recipe: Recipe, base: Base) -> None:
    length = recipe.resolved["sequence_length"]
    if base.max_positions is not None and length > base.max_positions:
        raise ModelError(
            f"stage '{stage.name}': sequence_length {length} is more than the {base.max_positions} positions of "
            "the base model; lower it"
        )


def _check_batch(stream: Stream, stage: Stage, recipe: Recipe) -> None:
    batch, workers = recipe.resolved["batch"], stream.compute.workers.max
    if batch < workers:
        raise ResourceError(
            f"stage '{stage.name}': a global batch of {batch} sequences cannot be divided among {workers} workers; "
            f"raise batch.size to {workers} or more, or lower compute.workers"
        )


def check_space(plan: Plan) -> None:
    """Raises StorageError where the disk has less room than the missing generations and checkpoints will take."""
    free = plan.store.free_bytes()
    if free is None or not plan.missing:
        return
    compute, shape = plan.stream.compute, plan.lines[0].base.generation.training["shape"]
    sizes = [cost.saved_bytes(shape, stage.recipe.resolved) for stage in plan.missing]
    wanted = sum(size.weights for size in sizes) + (compute.checkpoint.keep + 1) * max(s.checkpoint for s in sizes)
    if wanted > free:
        raise StorageError(
            f"storage '{plan.store.root}' has {free / 2**30:,.2f} GiB left; the {len(sizes)} generations to train and "
            f"the {compute.checkpoint.keep} checkpoints that are kept take about {wanted / 2**30:,.2f} GiB. Free some "
            "space, lower compute.checkpoint.keep, or give another storage=PATH."
        )


def _task(stream: Stream, number: int, base: Base, store: Store) -> TaskSpec:
    task = stream.tasks[number]
    longest = min(
        stream.sequence_length
        if "sequence_length" in stream.model_fields_set or not stream.stages
        else max(stage.sequence_length for stage in stream.stages),
        base.max_positions or 10**9,
    )
    return TaskSpec(
        task=task,
        sources=records.open_sources(task.data, store),
        tokenizer=str(store.fetch(f"tokenizers/{base.tokenizer_digest}")),
        tokenizer_digest=base.tokenizer_digest,
        form=task.format or stream.format,
        context=task.context or longest,
        precision=stream.compute.precision,
    )


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A planned stage with its data at hand: what it will really train on, and what that costs."""

    planned: PlannedStage
    mixture: mixture.MixtureSpec
    packed: Manifest
    draws: tuple[Draw, ...]
    batches: BatchPlan
    cost: cost.Cost


def prepare_stage(planned: PlannedStage, store: Store, line: Line) -> PreparedStage:
    """The stage with its records prepared (on Ray Data), its replay drawn and its steps counted."""
    own = records.prepare(planned.own, store)
    past = [(name, records.prepare(spec, store)) for name, spec in planned.past]
    recipe = planned.recipe.resolved
    own_index = mixture.index_of(store, planned.stage.name, own)
    draws = tuple(draw(recipe["replay"], own_index, [mixture.index_of(store, *item) for item in past], planned.seed))
    mixed = mixture.MixtureSpec(
        stage=planned.stage.name,
        own=own,
        past=tuple(m for _, m in past) if draws else (),
        draws=draws,
        sequence_length=recipe["sequence_length"],
    )
    packed = mixture.prepare(mixed, store)
    batches = plan_batches(recipe["length"], packed.rows, packed.tokens, recipe["batch"], planned.seed)
    return PreparedStage(
        planned=planned,
        mixture=mixed,
        packed=packed,
        draws=draws,
        batches=batches,
        cost=_cost(planned, packed, batches, line, store),
    )


def _cost(planned: PlannedStage, packed: Manifest, batches: BatchPlan, line: Line, store: Store) -> cost.Cost:
    shape = line.base.generation.training["shape"]
    seen = batches.total / packed.rows
    return cost.estimate(
        shape=shape,
        recipe=planned.recipe.resolved,
        compute=line.stream.compute,
        tokens=round(packed.tokens * seen),
        targets=round(packed.targets * seen),
        speeds=[g.training.get("flops_per_second", 0) for g in store.generations()],
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def generation_of(plan: Plan, key: str) -> Generation:
    """The committed generation of the plan's key."""
    found = plan.store.generation(key)
    assert found is not None, f"generation {key} is not in the store"
    return found
