"""A planned stage with its data at hand: records, replay, packed sequences, steps and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clray import cost, preferring
from clray.data import mixture, records
from clray.data.batches import BatchPlan, plan_batches
from clray.data.manifest import Manifest
from clray.domain_size import small_domain
from clray.evaluation.references import ReferenceSpec
from clray.evolving import mining
from clray.evolving.round import RoundSpec
from clray.instructions.evidence import Survey
from clray.lineage.catalogue import entries
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.planned import Line, PlannedStage
from clray.replay.draw import Draw, Index, draw, whole
from clray.replay.inscl import Evidence
from clray.spec.regulariser import DISTILLING
from clray.train import carry
from clray.train.order import StageOrder

NEAR_EQUAL = 1.1


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A planned stage with its data at hand: what it will really train on, and what that costs.

    `draws` are those of replay. `parts` say how the targets of each origin of the mixture weigh in the loss; empty: all
    alike. `teachers` are the generations whose predictions hold each origin. `provisional` where something depends on a
    parent that is not trained yet, which replay or a round's mistakes may: numbers are estimates then, and nothing is
    packed.
    """

    planned: PlannedStage
    mixture: mixture.MixtureSpec
    packed: Manifest
    draws: tuple[Draw, ...]
    batches: BatchPlan
    cost: cost.Cost
    parts: tuple[tuple[str, float], ...] = ()
    teachers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    provisional: bool = False

    @property
    def references(self) -> ReferenceSpec | None:
        """What the parent is asked of the pairs of an align stage before it is trained."""
        if self.planned.stage.kind != "align":
            return None
        precision = self.planned.recipe.resolved["precision"]
        return ReferenceSpec(generation=self.planned.parent, mixture=self.mixture.digest, precision=precision)


def prepare_stage(planned: PlannedStage, store: Store, line: Line) -> PreparedStage:
    """The stage with its records prepared (on Ray Data), its replay drawn and its steps counted.

    Raises StorageError where it goes on with the optimiser's state of a generation that is there without it.
    """
    parent = store.generation(planned.parent)
    if planned.recipe.carries and parent is not None:
        carry.files_of(store, parent)
    own, groups = _sets(planned.stage.name, planned.round or planned.own, store), _past(planned, store)
    past = None if groups is None else [one for some in groups for one in some]
    waits = own is None or past is None or (_waits_for_parent(planned) and parent is None)
    if own is None:
        assert planned.round is not None
        own = [(planned.stage.name, mining.guess(planned.round, store))]
    recipe = planned.recipe.resolved
    evidence: Evidence | None = None
    draws: tuple[Draw, ...] = ()
    there = not (planned.round and waits)
    whole_sets = [whole(mixture.index_of(store, name, m, False)) for name, m in own[1:]] if there else []
    if past and there:
        texts = planned.replay["kind"] == "inscl"
        new = _joined([mixture.index_of(store, name, m, texts) for name, m in own])
        old = [mixture.index_of(store, name, m, texts) for name, m in past]
        evidence = None if waits else _evidence(planned, new, old, store, line)
        draws = tuple(draw(recipe["replay"], new, old, planned.seed, evidence))
    mixed = mixture.MixtureSpec(
        stage=own[0][0],
        own=own[0][1],
        past=(*(manifest for _, manifest in own[1:]), *(manifest for _, manifest in past or () if draws)),
        draws=(*whole_sets, *draws),
        sequence_length=recipe["sequence_length"],
    )
    packed = mixture.estimate(mixed) if waits else mixture.prepare(mixed, store)
    batches = plan_batches(recipe["length"], packed.rows, packed.tokens, recipe["batch"], planned.seed)
    return PreparedStage(
        planned=planned,
        mixture=mixed,
        packed=packed,
        draws=draws,
        batches=batches,
        cost=_cost(planned, packed, batches, line, store),
        parts=_parts(planned, [name for name, _ in own], packed),
        teachers=_teachers(planned, len(own), groups if draws else ()),
        notes=(
            *_notes(planned, waits, evidence, draws),
            *_domain(planned, own),
            *_predictions(planned.recipe.resolved["regulariser"], len(own), packed, batches),
            *_left_out(planned, line),
        ),
        provisional=waits,
    )


def _sets(name: str, spec: records.RecordSpec | RoundSpec | None, store: Store) -> list[tuple[str, Manifest]] | None:
    """Names and record sets of what a stage is made of: one, or one of each kind of a round's rows. None where the
    round's mistakes are not mined yet."""
    if isinstance(spec, RoundSpec):
        found = mining.sets(spec, store)
        return None if found is None else [(f"{name} {kind}", records.prepare(one, store)) for kind, one in found]
    assert spec is not None
    return [(name, records.prepare(spec, store))]


def _past(planned: PlannedStage, store: Store) -> list[list[tuple[str, Manifest]]] | None:
    """The record sets of each earlier stage that may be shown again; None where a round among them is not mined yet."""
    found = [_sets(name, spec, store) for name, spec in planned.past]
    return None if None in found else [some or [] for some in found]


def _teachers(
    planned: PlannedStage, own: int, groups: Sequence[Sequence[tuple[str, Manifest]]] | None
) -> tuple[str, ...]:
    """The generation whose predictions hold each origin of the mixture, where the regulariser wants some: the parent,
    or (der) of replayed rows the one that learnt them. `groups` are the record sets of each earlier stage that is
    replayed.
    """
    match planned.recipe.resolved["regulariser"]["kind"]:
        case "lwf":
            return (planned.parent,) * (own + sum(len(some) for some in groups or ()))
        case "der":
            learnt = zip(planned.teachers, groups, strict=True) if groups else ()
            return (*[""] * own, *(key for key, some in learnt for _ in some))
    return ()


def _joined(indexes: Sequence[Index]) -> Index:
    """One index of all of a stage's own record sets."""
    if len(indexes) == 1:
        return indexes[0]
    tokens = np.concatenate([index.tokens for index in indexes])
    return Index(name="", digest=digest([index.digest for index in indexes]), tokens=tokens)


def _parts(planned: PlannedStage, own: Sequence[str], packed: Manifest) -> tuple[tuple[str, float], ...]:
    """Part and weight of the targets of each origin of a round that has both passages and instructions.

    Over the whole mixture passages make up the share `evolve.loss` of the loss of the round's own rows, however many
    tokens they are; replayed rows count as they are.
    """
    if planned.round is None or len(own) < 2 or own[0] != f"{planned.stage.name} cpt":
        return ()
    targets = [origin["targets"] for origin in packed.provenance["origins"]]
    read, answered = targets[0], sum(targets[1 : len(own)])
    share, every = planned.round.round.loss, read + answered
    weights = {"cpt": share * every / max(1, read), "cit": (1 - share) * every / max(1, answered), "replay": 1.0}
    parts = ["cpt", *["cit"] * (len(own) - 1), *["replay"] * (len(targets) - len(own))]
    return tuple((part, weights[part]) for part in parts)


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
        parts=prepared.parts,
        teachers=prepared.teachers,
        references=prepared.references.folder if prepared.references else "",
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


def _notes(
    planned: PlannedStage, provisional: bool, evidence: Evidence | None, draws: tuple[Draw, ...]
) -> tuple[str, ...]:
    """What a person should know of the replay, or of a round's set, before it is trained on."""
    if provisional and planned.round:
        return ("mistakes are mined when the parent is trained; rows and steps are at most these",)
    if provisional:
        return ("replay is drawn when the parent is trained (encoder.of: parent); rows and steps are estimates",)
    if evidence is None or evidence.distances is None:
        return ()
    quotas = ", ".join(f"{len(d.rows)} of {d.origin.name} (W {d.reasons['distance']:.3g})" for d in draws)
    text = f"InsCL quotas {quotas}; spread {evidence.spread():.2f}, {evidence.solver}"
    if len(draws) > 1 and evidence.spread() < NEAR_EQUAL:
        text += "; as good as equal: these embeddings hardly tell the stages apart, try another replay.encoder"
    return (text,)


def _domain(planned: PlannedStage, own: Sequence[tuple[str, Manifest]]) -> tuple[str, ...]:
    """What a person should know of the size of the stage's own text before the model is trained on it."""
    warning = small_domain(planned.shape, planned.recipe.resolved, sum(manifest.tokens for _, manifest in own))
    return (warning,) if warning else ()


def _predictions(regulariser: dict[str, Any], own: int, packed: Manifest, batches: BatchPlan) -> tuple[str, ...]:
    """How much of earlier generations' predictions is kept to hold the stage; nothing where none is. `own` counts the
    origins that are not replayed.

    Teachers are asked at the targets of the sequences that the stage will see; where it sees a part of them, these are
    estimated by its share. A sequence in which own and replayed rows are packed together is kept whole (der).
    """
    if regulariser["kind"] not in DISTILLING:
        return ()
    der, seen = regulariser["kind"] == "der", min(1.0, batches.total / packed.rows)
    targets = round(seen * sum(origin["targets"] for origin in packed.provenance["origins"][own if der else 0 :]))
    size = 4 * targets * (2 * regulariser["top_k"] + 1)
    return (
        f"regulariser {regulariser['kind']} keeps {regulariser['top_k']} tokens of earlier predictions at "
        f"{'about ' if seen < 1 else ''}{targets:,} targets, {'at least ' if der else ''}{size / 2**20:,.1f} MiB below "
        "logits/",
    )


def _left_out(planned: PlannedStage, line: Line) -> tuple[str, ...]:
    """What a person should know of earlier stages that are not shown again, since another loss is taken on them."""
    earlier = [one.stage for one in line.stages[: planned.index - 1]]
    note = preferring.left_out(planned.stage, earlier) if planned.past else ""
    return (note,) if note else ()


def _cost(planned: PlannedStage, packed: Manifest, batches: BatchPlan, line: Line, store: Store) -> cost.Cost:
    seen = batches.total / packed.rows
    return cost.estimate(
        shape=planned.shape,
        recipe=planned.recipe.resolved,
        compute=line.stream.compute,
        tokens=round(packed.tokens * seen),
        targets=round(packed.targets * seen),
        speeds=[each.flops / each.seconds for each in entries(store) if each.flops and each.seconds],
    )
