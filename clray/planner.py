"""How a stream becomes a plan: each stage checked, its recipe resolved, its key computed; experts and generators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clray import continuing, cost, gating, holding, preferring
from clray.data import records
from clray.errors import ModelError, ResourceError, SpecError, StorageError
from clray.evaluation import suites
from clray.evaluation.matrix import GENERAL
from clray.evaluation.pseudo import PseudoSpec
from clray.evaluation.tasks import TaskSpec
from clray.evolving import judging
from clray.evolving.round import RoundSpec, round_spec
from clray.gating import GateSpec
from clray.instructions import kept
from clray.lineage.clock import now
from clray.lineage.key import generation_key
from clray.lineage.store import Store
from clray.models.base import Base, prepare_base
from clray.planned import Line, Plan, PlannedStage
from clray.ray_session import quiet
from clray.similarity import settled
from clray.spec import loading
from clray.spec.evolve import Round
from clray.spec.gate import Gate
from clray.spec.recipe import Recipe, alone, generator_recipe, resolve
from clray.spec.stream import Stage, Stream


def make_plan(stream: Stream, label: str = "") -> Plan:
    """The plan of the stream, or of the combination `label` of its benchmark.

    Finds and digests models and sources, and trains nothing. It starts no Ray, but to measure the similarity of stages
    that was never measured before.
    """
    quiet(stream.compute.gpus_per_worker)
    store = Store(stream.storage)
    store.check_writable()
    stream, similarity = settled(stream, store, now())
    lines = [plan_line("stream", stream, store)]
    lines += [plan_line(name, loading.variant(stream, name), store) for name in stream.controls]
    base = lines[0].base
    experts = plan_experts(lines[0], store) if stream.experts else ()
    kept = _kept(lines)
    return Plan(
        stream=stream,
        store=store,
        lines=tuple(_keeping(line, kept) for line in lines),
        experts=tuple(_keeping(line, kept) for line in experts),
        generators=plan_generators((*lines, *experts)),
        tasks=tuple(_task(stream, number, base, store) for number in range(len(stream.tasks))),
        similarity=similarity,
        label=label,
    )


def _kept(lines: Sequence[Line]) -> set[str]:
    """Keys of the generations whose optimiser's state is wanted: by a stage of any line, or by one still to come."""
    stages = [stage for line in lines for stage in line.stages]
    if any(s.recipe.carries for s in stages) and any(s.gate for s in stages):
        return {s.key for s in stages}  # after a rejected stage the next one goes on from an earlier generation
    return {s.key for s in stages if s.recipe.keeps} | {s.parent for s in stages if s.recipe.carries}


def _keeping(line: Line, kept: set[str]) -> Line:
    """The line, its stages told which of them keep the optimiser's state."""
    return replace(line, stages=tuple(replace(stage, keeps_state=stage.key in kept) for stage in line.stages))


def plan_line(name: str, stream: Stream, store: Store) -> Line:
    """The chain of keys of one line."""
    base = prepare_base(stream, store, now())
    parent = base.generation.key
    parent_stage: dict[str, Any] = {}
    shape: dict[str, int] = base.generation.training["shape"]
    stages: list[PlannedStage] = []
    examined, ended = parent, ""
    rejected: list[PlannedStage] = []
    gated = any(stream.gate_of(stage) for stage in stream.stages)
    tasks = [_task(stream, number, base, store) for number in range(len(stream.tasks))] if gated else []
    waiting = [(stage, 0) for stage in stream.sequence]
    while waiting:
        (stage, attempt), *waiting = waiting
        round_ = stage.evolve if isinstance(stage.evolve, Round) else None
        if round_ and round_.of == ended:
            continue
        index = len(stages) + 1
        alike = [old for old in stages if preferring.alike(old.stage, stage)]
        preferring.check_replay(stage, [old.stage for old in stages])
        gate, asked = stream.gate_of(stage), resolve(stream, stage, parent_stage, first=not alike)
        gating.check_gate(stage, gate, asked, first=not alike)
        recipe = gating.raised(asked, gate, attempt)
        _check_positions(stage, recipe, base)
        _check_batch(stream, stage, recipe)
        _check_adapter(stage, recipe, parent_stage)
        continuing.check_schedule(stage, recipe)
        continuing.check_carried(stage, recipe, parent_stage)
        continuing.check_architecture(stage, recipe, base, stream.model.trust_remote_code, store)
        grown = continuing.grown(stage, recipe, parent_stage, shape)
        earlier = [(one.stage, one.recipe.resolved, one.shape) for one in stages]
        holding.check(stage, recipe, grown, earlier, base.generation.training["shape"])
        examined = examined if round_ and round_.half == "cit" else parent
        made = _made_of(stream, stage, recipe, base, store, examined)
        past = tuple((old.stage.name, old.round or old.own) for old in alike) if recipe.replays else ()
        replay = _replay(stage, [old.stage for old in alike] if recipe.replays else (), recipe, store)
        planned = PlannedStage(
            stage=stage,
            index=index,
            parent=parent,
            key="",
            recipe=recipe,
            parent_stage=parent_stage,
            replay=replay,
            own=made if isinstance(made, records.RecordSpec) else None,
            round=made if isinstance(made, RoundSpec) else None,
            past=_cut_to(past, recipe.resolved["sequence_length"]),
            seed=stream.seed,
            shape=grown,
            teachers=_teachers(recipe, [name for name, _ in past], stages),
            **_imitation(stage, recipe, made, base, stream.seed),
        )
        resolved = {**recipe.resolved, "replay": kept.identity(replay)}
        key = generation_key(parent, resolved, planned.sources, [spec.digest for _, spec in planned.past], stream.seed)
        line = Line(name=name, stream=stream, base=base, stages=(*stages, replace(planned, key=key)))
        planned = replace(line.stages[-1], gate=_gate(line, gate, attempt, tasks) if gate else None)
        verdict = gating.verdict_of(planned.gate, key, store)
        if verdict and not verdict.accepted:
            rejected.append(planned)
            waiting = gating.after(verdict.decision, stage, attempt, waiting)
            continue
        stages.append(planned)
        judged = judging.judgement_of(key, store, round_.stop) if round_ and round_.is_judged else None
        ended = round_.of if round_ and judged and judged["stop"] else ended
        parent, parent_stage, shape = key, asked.resolved, grown
    return Line(name=name, stream=stream, base=base, stages=tuple(stages), rejected=tuple(rejected))


def _gate(line: Line, gate: Gate, attempt: int, tasks: Sequence[TaskSpec]) -> GateSpec:
    """The gate of the line's last stage, in its try number `attempt`."""
    planned, columns = line.stages[-1], []
    for spec in tasks:
        row = line.learned_at(spec.task.name)
        group = spec.task.group or (GENERAL if row is None else None)
        columns.append((spec.digest, spec.task.score, group, row))
    replays = planned.recipe.replays and bool(planned.past)
    return gating.gate_spec(gate, attempt, replays, line.stream.name, line.name, planned.index, columns)


def plan_experts(line: Line, store: Store) -> tuple[Line, ...]:
    """A line for each stage of `line` alone: trained from the base model with the stage's recipe, without replay."""
    root = line.base.generation.key
    experts = []
    for planned in line.stages:
        recipe = alone(planned.recipe)
        continuing.check_schedule(planned.stage, recipe, alone=True)
        stage = replace(
            planned,
            index=1,
            parent=root,
            key=generation_key(root, recipe.resolved, planned.sources, [], planned.seed),
            recipe=recipe,
            parent_stage={},
            round=replace(planned.round, examined=root) if planned.round else None,
            replay=recipe.resolved["replay"],
            shape=continuing.grown(planned.stage, recipe, {}, line.base.generation.training["shape"]),
            past=(),
            teachers=(),
        )
        experts.append(
            Line(name=f"{planned.stage.name} alone", stream=line.stream, base=line.base, stages=(stage,), role="expert")
        )
    return tuple(experts)


def plan_generators(lines: Sequence[Line]) -> tuple[Line, ...]:
    """A line for each generator of pseudo-samples that a stage of `lines` wants, each once."""
    wanted = {stage.generator.key: (line, stage) for line in lines for stage in line.stages if stage.generator}
    return tuple(
        Line(
            name=f"generator of {stage.stage.name}",
            stream=line.stream,
            base=line.base,
            stages=(stage.generator,),
            role="generator",
        )
        for line, stage in wanted.values()
        if stage.generator
    )


def _imitation(
    stage: Stage, recipe: Recipe, own: records.RecordSpec | RoundSpec, base: Base, seed: int
) -> dict[str, Any]:
    """Generator and pseudo-samples of the stage, as fields of PlannedStage; none where it wants none."""
    imitating = generator_recipe(recipe)
    if imitating is None or isinstance(own, RoundSpec):
        return {}
    reflection = recipe.resolved["adapter"]["reflection"]
    inputs = replace(own, kind="generator")
    root = base.generation.key
    generator = PlannedStage(
        stage=stage.model_copy(update={"name": f"{stage.name}.generator", "kind": "generator"}),
        index=1,
        parent=root,
        key=generation_key(root, imitating.resolved, [inputs.digest], [], seed),
        recipe=imitating,
        parent_stage={},
        replay=imitating.resolved["replay"],
        own=inputs,
        past=(),
        seed=seed,
        shape=base.generation.training["shape"],
    )
    pseudo = PseudoSpec(
        generator=generator.key,
        count=reflection["prompts"],
        tokenizer=own.tokenizer,
        tokenizer_digest=own.tokenizer_digest,
        form=own.form,
        limit=own.limit,
        precision=recipe.resolved["precision"],
        top_k=reflection["generator"]["top_k"],
        repetition_penalty=reflection["generator"]["repetition_penalty"],
        seed=seed,
    )
    return {"generator": generator, "pseudo": pseudo}


def _teachers(recipe: Recipe, past: Sequence[str], stages: Sequence[PlannedStage]) -> tuple[str, ...]:
    """Keys of the generations that learnt what of the `past` is shown again, where the regulariser (der) asks them."""
    keys = {one.stage.name: one.key for one in stages}
    return tuple(keys[name] for name in past) if recipe.resolved["regulariser"]["kind"] == "der" else ()


def _replay(stage: Stage, earlier: Sequence[Stage], recipe: Recipe, store: Store) -> dict[str, Any]:
    """The stage's replay choice, with the models it names kept in the store."""
    replay: dict[str, Any] = recipe.resolved["replay"]
    if replay["kind"] != "inscl":
        return replay
    preferring.check_instructions(stage)
    for part in (stage, *earlier):
        if part.kind != "instruct":
            raise SpecError(
                f"stage '{stage.name}': replay inscl weighs instructions, and stage '{part.name}' has plain text, "
                f"which has none; give stage '{stage.name}' another method.replay (random or balanced)"
            )
    return kept.keep_models(replay, store)


def _made_of(
    stream: Stream, stage: Stage, recipe: Recipe, base: Base, store: Store, examined: str
) -> records.RecordSpec | RoundSpec:
    """What `stage` is trained on, cut to the sequence length of `recipe`: its record set, or the round that makes one
    of the mistakes of generation `examined`."""
    form = stage.format if "format" in stage.model_fields_set else stream.format
    tokenizer, limit = str(store.fetch(f"tokenizers/{base.tokenizer_digest}")), recipe.resolved["sequence_length"]
    if stage.evolve is None:
        return records.RecordSpec(
            kind=stage.kind,
            sources=records.open_sources(stage.data, store),
            tokenizer=tokenizer,
            tokenizer_digest=base.tokenizer_digest,
            form=form,
            limit=limit,
        )
    assert isinstance(stage.evolve, Round), "a stream's sequence holds rounds"
    return round_spec(stage.evolve, examined, form, limit, tokenizer, base.tokenizer_digest, stream, store)


def _cut_to(
    past: Sequence[tuple[str, records.RecordSpec | RoundSpec | None]], limit: int
) -> tuple[tuple[str, records.RecordSpec | RoundSpec], ...]:
    """What earlier stages were made of, their examples cut to `limit` tokens."""
    return tuple(
        (name, replace(spec, limit=limit) if isinstance(spec, records.RecordSpec) else spec)
        for name, spec in past
        if spec
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


def _check_adapter(stage: Stage, recipe: Recipe, parent_stage: dict[str, Any]) -> None:
    """A shared attention reads prompts and cannot be merged: raises SpecError where that would be asked of it."""
    adapter, before = recipe.resolved["adapter"], parent_stage.get("adapter")
    if adapter["kind"] == "sapt" and stage.kind not in ("instruct", "align"):
        raise SpecError(
            f"stage '{stage.name}': adapter sapt selects its blocks by an example's prompt, and plain text has none; "
            "give this stage another adapter, before the first sapt stage"
        )
    if adapter["kind"] == "sapt" and stage.kind == "align" and adapter["reflection"].get("generator"):
        raise SpecError(
            f"stage '{stage.name}': adapter.reflection.source pseudo: a generator writes inputs of instruction "
            "records, and preference pairs are none; give this stage reflection.source rows"
        )
    if before and before["kind"] == "sapt" and (adapter["kind"] != "sapt" or adapter["targets"] != before["targets"]):
        raise SpecError(
            f"stage '{stage.name}': it goes on from blocks under a shared attention, which cannot be merged into the "
            f"weights; give it adapter sapt with targets {json.dumps(before['targets'])}, or put it before them"
        )


def check_space(plan: Plan) -> None:
    """Raises StorageError where the disk has less room than the missing generations and checkpoints will take."""
    free = plan.store.free_bytes()
    if free is None or not plan.missing:
        return
    compute = plan.stream.compute
    sizes = [cost.saved_bytes(stage.shape, stage.recipe.resolved, stage.keeps_state) for stage in plan.missing]
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
    of_suite = task.scorer == "suite"
    return TaskSpec(
        task=task,
        sources=records.open_sources(task.data, store),
        tokenizer=str(store.fetch(f"tokenizers/{base.tokenizer_digest}")),
        tokenizer_digest=base.tokenizer_digest,
        form=task.format or stream.format,
        context=task.context or (base.max_positions if of_suite and base.max_positions else longest),
        precision=stream.compute.precision,
        suite=suites.mark(task) if of_suite else "",
    )
