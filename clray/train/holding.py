"""What holds a stage near earlier generations: made before its engine, from what lies in the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from clray.data.batches import BatchPlan, PackedShards
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.spec.regulariser import DISTILLING
from clray.train import fisher
from clray.train.anchor import Anchor
from clray.train.context import Context
from clray.train.distil import Distillation, distillation
from clray.train.order import StageOrder
from clray.train.teacher import taught


@dataclass(frozen=True)
class Holding:
    """A pull of the weights towards a centre, or a distance from what teachers predict; nothing where neither is there.

    `taught` are the packed sequences with what the teachers predict at their targets. `summary` is what goes into the
    record: the seconds that it took before the first step.
    """

    anchor: Anchor | None = None
    distil: Distillation | None = None
    taught: PackedShards | None = None
    summary: dict[str, float] = field(default_factory=dict)


def by_teachers(store: Store, order: StageOrder, shards: PackedShards, plan: BatchPlan, context: Context) -> Holding:
    """What holds the stage's predictions; asked before its model is loaded, since teachers have the memory until then.
    Every rank must call it."""
    if order.recipe["regulariser"]["kind"] not in DISTILLING or not any(order.teachers):
        return Holding()
    started, distil = time.monotonic(), distillation(order.recipe["regulariser"])
    found = taught(store, order, shards, plan, distil, context)
    return Holding(distil=distil, taught=found, summary=_seconds(started))


def with_anchor(
    holding: Holding, store: Store, order: StageOrder, parent: Generation, model: Any, context: Context
) -> Holding:
    """The same, with what holds the weights of the model, which stands where the stage begins. Every rank must call
    it."""
    regulariser, started = order.recipe["regulariser"], time.monotonic()
    if regulariser["kind"] == "l2":
        return replace(holding, anchor=Anchor(model, regulariser["weight"], context))
    if regulariser["kind"] != "ewc":
        return holding
    state = fisher.running(store, order, parent, model, context)
    centre = {name.removesuffix(fisher.CENTRE): value for name, value in state.items() if name.endswith(fisher.CENTRE)}
    anchor = Anchor(model, regulariser["weight"], context, state, centre)
    return replace(holding, anchor=anchor, summary=_seconds(started))


def _seconds(started: float) -> dict[str, float]:
    return {"holding_seconds": time.monotonic() - started}
