"""How a stage trains, top to bottom. Runs on Ray Train, under torchrun, or alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clray.data.batches import BatchPlan, PackedShards, plan_batches
from clray.data.manifest import Manifest
from clray.lineage.store import Store
from clray.models import stacks
from clray.models.loading import copy_tokenizer, require, trainable_model
from clray.train import carry, holding, merging, remember
from clray.train import engine as engines
from clray.train.context import Context
from clray.train.meters import Meters, together
from clray.train.objective import collate
from clray.train.order import StageLeft, StageOrder, StageResult
from clray.train.saver import LEAVE, Running, Saver
from clray.train.schedule import learning_rate


def train_stage(order: StageOrder, context: Context) -> StageResult:
    """Trains one stage and writes the new generation's weights below its folder in the store.

    Every rank calls it with the same order. It goes on from the stage's newest checkpoint, if there is one.
    The record that makes the generation exist is the driver's. Raises StageLeft where it was told to leave.
    """
    store, meters = Store(order.storage), Meters(context.device)
    manifest = Manifest.load(store, f"mixtures/{order.mixture}")
    assert manifest is not None, f"mixture {order.mixture} was not prepared"
    references = Manifest.load(store, order.references) if order.references else None
    assert bool(references) == bool(order.references), f"{order.references} was not prepared"
    shards = PackedShards(store, manifest, references)
    plan = plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)
    parent = require(store, order.parent)
    behind = carry.steps_behind(store, order.recipe, parent)
    saver = Saver(store, order, context, behind)
    held = holding.by_teachers(store, order, shards, plan, context)
    shards = held.taught or shards
    torch.manual_seed(order.seed)
    model, below = trainable_model(
        store, parent, order.recipe["adapter"], order.recipe["precision"], order.attention, order.trust_remote_code
    )
    adapter = order.recipe["adapter"]
    table = stacks.table_digest(model) if adapter["kind"] == "sapt" else ""
    if adapter["kind"] == "sapt":
        remember.begin(model, remember.first_prompts(shards, plan, remember.MEAN_OF), adapter)
    held = holding.with_anchor(held, store, order, parent, model, context)
    saver.before_engine(model)
    engine = engines.build_engine(model, order, context.world, held)
    run = saver.after_engine(engine)
    if behind and not run.step:
        carry.take(engine, store, parent, behind)
    _steps(engine, shards, plan, order, context, run, saver)
    memory: stacks.Memory = []
    if adapter["kind"] == "sapt":
        own = remember.first_prompts(shards, plan, adapter["reflection"]["prompts"])
        kept = remember.pseudo_prompts(store, order.pseudo) if order.pseudo else own
        memory = remember.record(model, own, kept, context.device)
    files = _write(engine, store, order, context, below, memory, table)
    moments = carry.keep(engine, store, order.key, context) if order.keep_state else {}
    carried = {carry.STEPS: behind + plan.steps} if moments else {}
    engine.destroy()
    used = together(context.gather(meters.read(energy=saver.from_start)))
    return StageResult(
        key=order.key,
        base=below or order.key,
        files=files | moments,
        curve=run.curve,
        training=_summary(run, model, shards, plan, context.world) | carried | held.summary | used,
    )


def _steps(
    engine: Any, shards: PackedShards, plan: BatchPlan, order: StageOrder, context: Context, run: Running, saver: Saver
) -> None:
    """Runs the optimiser steps that are left, and saves checkpoints between them."""
    recipe = order.recipe
    engine.train()
    for step in range(run.step, plan.steps):
        engine.module.extra.begin(step, plan.steps)
        rate = learning_rate(step, plan.steps, recipe["optimiser"]["learning_rate"], recipe["schedule"])
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        loss, more, wish = _step(engine, shards, plan, step, order, context, saver.wish(run))
        run.add(loss, rate, int(shards.num_tokens[plan.rows(step)].sum()), more)
        if context.rank == 0:
            context.report(run.progress(order.key, plan.steps))
        if wish and run.step < plan.steps:
            saver.save(engine, run)
            if wish == LEAVE:
                saver.close()
                raise StageLeft(run.step)
    saver.close()


def _step(
    engine: Any, shards: PackedShards, plan: BatchPlan, step: int, order: StageOrder, context: Context, wish: int
) -> tuple[float, dict[str, float], int]:
    """One optimiser step over global batch `step`: its mean loss over target tokens (nats) or pairs, what else is to be
    seen of it, and rank 0's wish.

    DeepSpeed averages over ranks and accumulation, so the sum is scaled by both and divided by the targets (or pairs)
    of the whole batch, which every rank knows from the manifest: the number of workers does not change the loss.
    """
    rows_of_step = plan.rows(step)
    units, targets = (max(1, int(counts[rows_of_step].sum())) for counts in (shards.num_units, shards.num_targets))
    micro = order.compute["micro_batch"]
    rounds = context.world * engines.accumulation(order, context.world)
    torch.manual_seed(int(np.random.SeedSequence([order.seed, step, context.rank]).generate_state(1)[0]))
    watched = engine.module.watched
    total = torch.zeros(5 + 2 * len(watched), device=context.device)
    total[4] = wish
    for rows in plan.micro_batches(step, context.rank, context.world, micro):
        loss = engine(collate(shards, rows, micro).to(context.device))
        term, gate, apart = engine.module.term, engine.module.gate, engine.module.held * (rounds / targets)
        engine.backward(loss * (rounds / units) + apart + term)
        engine.step()
        total[:4] += torch.stack([loss.detach().float(), (term + apart).detach().float(), *gate])
        total[5:] += engine.module.seen.flatten()
    if context.world > 1:
        torch.distributed.all_reduce(total)
    summed, extra, newest, instances, agreed, *seen = total.tolist()
    more = {"extra_loss": extra / rounds} if extra else {}
    if instances:
        more["newest_block_weight"] = newest / instances
    more |= {name: seen[2 * n] / seen[2 * n + 1] for n, name in enumerate(watched) if seen[2 * n + 1]}
    return summed / units, more, int(agreed)


def _write(
    engine: Any,
    store: Store,
    order: StageOrder,
    context: Context,
    below: str | None,
    memory: stacks.Memory,
    table: str,
) -> dict[str, str]:
    """Files of the new generation's weights, written by rank 0: relative path -> SHA-256."""
    base = (
        None
        if below is None
        else str(store.weights(below))
        if store.local
        else store.uri(f"generations/{below}/weights")
    )
    with tempfile.TemporaryDirectory(prefix="clray-weights-") as scratch:
        engines.save_weights(engine, Path(scratch), context.rank, base, memory, table)
        if context.rank:
            return {}
        if order.recipe.get("merge"):
            merging.merge(Path(scratch), order.recipe, store, require(store, order.parent), order.seed)
        copy_tokenizer(store, order.parent, Path(scratch))
        digests = store.upload(scratch, f"generations/{order.key}/weights")
    return {f"weights/{name}": value for name, value in digests.items()}


def _summary(run: Running, model: Any, shards: PackedShards, plan: BatchPlan, world: int) -> dict[str, Any]:
    """Steps, tokens, targets, losses, the parameters that were trained, and what decides how sums are rounded."""
    rows = np.concatenate([plan.rows(step) for step in range(plan.steps)])
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
    every = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    tokens, tenth = int(shards.num_tokens[rows].sum()), max(1, len(run.curve) // 10)
    return {
        "steps": plan.steps,
        "sequences": plan.total,
        "seconds": run.seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / max(run.seconds, 1e-9),
        "targets": int(shards.num_targets[rows].sum()),
        "first_loss": run.curve[0]["loss"],
        "last_loss": float(np.mean([point["loss"] for point in run.curve[-tenth:]])),
        "parameters": every,
        "trained_parameters": trained,
        "workers": world,
        "threads": torch.get_num_threads(),
    }
