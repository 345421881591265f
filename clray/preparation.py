"""A planned stage with its data at hand: records, replay, packed sequences, steps and cost."""

from __future__ import annotations

from dataclasses import dataclass

from clray import cost
from clray.data import mixture, records
from clray.data.batches import BatchPlan, plan_batches
from clray.data.manifest import Manifest
from clray.domain_size import small_domain
from clray.instructions.evidence import Survey
from clray.lineage.store import Store
from clray.planner import Line, PlannedStage
from clray.replay.draw import Draw, Index, draw
from clray.replay.inscl import Evidence
from clray.train import carry
from clray.train.order import StageOrder

NEAR_EQUAL = 1.1


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A planned stage with its data at hand: what it will really train on, and what that costs.

    `provisional` where the replay depends on a parent that is not trained yet: numbers are estimates then, and
    nothing is packed.
    """

    planned: PlannedStage
    mixture: mixture.MixtureSpec
    packed: Manifest
    draws: tuple[Draw, ...]
    batches: BatchPlan
    cost: cost.Cost
    notes: tuple[str, ...] = ()
    provisional: bool = False


def prepare_stage(planned: PlannedStage, store: Store, line: Line) -> PreparedStage:
    """The stage with its records prepared (on Ray Data), its replay drawn and its steps counted.

    Raises StorageError where it goes on with the optimiser's state of a generation that is there without it.
    """
    parent = store.generation(planned.parent)
    if planned.recipe.carries and parent is not None:
        carry.files_of(store, parent)
    own = records.prepare(planned.own, store)
    past = [(name, records.prepare(spec, store)) for name, spec in planned.past]
    recipe = planned.recipe.resolved
    provisional = _waits_for_parent(planned) and parent is None
    evidence: Evidence | None = None
    draws: tuple[Draw, ...] = ()
    if past:
        texts = planned.replay["kind"] == "inscl"
        new, *old = (mixture.index_of(store, name, m, texts) for name, m in ((planned.stage.name, own), *past))
        evidence = None if provisional else _evidence(planned, new, old, store, line)
        draws = tuple(draw(recipe["replay"], new, old, planned.seed, evidence))
    mixed = mixture.MixtureSpec(
        stage=planned.stage.name,
        own=own,
        past=tuple(m for _, m in past) if draws else (),
        draws=draws,
        sequence_length=recipe["sequence_length"],
    )
    packed = mixture.estimate(mixed) if provisional else mixture.prepare(mixed, store)
    batches = plan_batches(recipe["length"], packed.rows, packed.tokens, recipe["batch"], planned.seed)
    return PreparedStage(
        planned=planned,
        mixture=mixed,
        packed=packed,
        draws=draws,
        batches=batches,
        cost=_cost(planned, packed, batches, line, store),
        notes=(*_notes(provisional, evidence, draws), *_domain(planned, own)),
        provisional=provisional,
    )


def order_of(prepared: PreparedStage, line: Line, store: Store) -> StageOrder:
    """What the training group is told of the stage."""
    planned, model = prepared.planned, line.stream.model
    return StageOrder(
        storage=store.root,
        key=planned.key,
        parent=planned.parent,
        mixture=prepared.mixture.digest,
        recipe=planned.recipe.resolved,
        seed=planned.seed,
        compute=line.stream.compute.model_dump(mode="json"),
        attention=model.attention,
        trust_remote_code=model.trust_remote_code,
        pseudo=planned.pseudo.path if planned.pseudo else "",
        keep_state=planned.keeps_state,
    )


def _waits_for_parent(planned: PlannedStage) -> bool:
    """Whether what is replayed depends on the weights that the stage starts from."""
    replay = planned.replay
    return bool(planned.past) and replay["kind"] == "inscl" and replay["encoder"].get("of") == "parent"


def _evidence(planned: PlannedStage, own: Index, past: list[Index], store: Store, line: Line) -> Evidence | None:
    if planned.replay["kind"] != "inscl":
        return None
    survey = Survey(
        own=own,
        past=past,
        replay=planned.replay,
        generation=planned.parent if _waits_for_parent(planned) else line.base.generation.key,
        store=store,
        evaluation=line.stream.evaluation,
    )
    return survey.evidence()


def _notes(provisional: bool, evidence: Evidence | None, draws: tuple[Draw, ...]) -> tuple[str, ...]:
    """What a person should know of the replay before it is trained on."""
    if provisional:
        return ("replay is drawn when the parent is trained (encoder.of: parent); rows and steps are estimates",)
    if evidence is None or evidence.distances is None:
        return ()
    quotas = ", ".join(f"{len(d.rows)} of {d.origin.name} (W {d.reasons['distance']:.3g})" for d in draws)
    text = f"InsCL quotas {quotas}; spread {evidence.spread():.2f}, {evidence.solver}"
    if len(draws) > 1 and evidence.spread() < NEAR_EQUAL:
        text += "; as good as equal: these embeddings hardly tell the stages apart, try another replay.encoder"
    return (text,)


def _domain(planned: PlannedStage, own: Manifest) -> tuple[str, ...]:
    """What a person should know of the size of the stage's own text before the model is trained on it."""
    warning = small_domain(planned.shape, planned.recipe.resolved, own.tokens)
    return (warning,) if warning else ()


def _cost(planned: PlannedStage, packed: Manifest, batches: BatchPlan, line: Line, store: Store) -> cost.Cost:
    seen = batches.total / packed.rows
    return cost.estimate(
        shape=planned.shape,
        recipe=planned.recipe.resolved,
        compute=line.stream.compute,
        tokens=round(packed.tokens * seen),
        targets=round(packed.targets * seen),
        speeds=[g.training.get("flops_per_second", 0) for g in store.generations()],
    )
