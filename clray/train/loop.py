"""How a stage trains, top to bottom. Runs on Ray Train, under torchrun, or alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clray.data.batches import BatchPlan, PackedShards, plan_batches
from clray.data.manifest import Manifest
from clray.lineage.store import Store
from clray.models.loading import load_tokenizer, require, tokenizer_digest, trainable_model
from clray.train import engine as engines
from clray.train.objective import collate
from clray.train.order import Progress, StageOrder, StageResult
from clray.train.schedule import learning_rate


@dataclass(frozen=True)
class Context:
    """Where a rank stands: its number, how many there are, its device, and whom it tells of progress."""

    rank: int
    world: int
    device: torch.device
    report: Callable[[Progress], None]


def train_stage(order: StageOrder, context: Context) -> StageResult:
    """Trains one stage and writes the new generation's weights below its folder in the store.

    Every rank calls it with the same order. The record that makes the generation exist is the driver's.
    """
    store = Store(order.storage)
    manifest = Manifest.load(store, f"mixtures/{order.mixture}")
    assert manifest is not None, f"mixture {order.mixture} was not prepared"
    shards = PackedShards(store, manifest)
    plan = plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)
    parent = require(store, order.parent)
    torch.manual_seed(order.seed)
    model, below = trainable_model(
        store, parent, order.recipe["adapter"], order.recipe["precision"], order.attention, order.trust_remote_code
    )
    engine = engines.build_engine(model, order, context.world)
    started = time.monotonic()
    curve = _steps(engine, shards, plan, order, context)
    seconds = time.monotonic() - started
    files = _write(engine, store, order, context, below)
    engine.destroy()
    return StageResult(
        key=order.key,
        base=below or order.key,
        files=files,
        curve=curve,
        training=_summary(curve, seconds, model, shards, plan),
    )


def _steps(
    engine: Any, shards: PackedShards, plan: BatchPlan, order: StageOrder, context: Context
) -> list[dict[str, float]]:
    """Runs all optimiser steps; returns the training curve."""
    recipe, started, seen, curve = order.recipe, time.monotonic(), 0, []
    engine.train()
    for step in range(plan.steps):
        rate = learning_rate(step, plan.steps, recipe["optimiser"]["learning_rate"], recipe["schedule"])
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        loss = _step(engine, shards, plan, step, order, context)
        seen += int(shards.num_tokens[plan.rows(step)].sum())
        now = Progress(
            key=order.key,
            step=step + 1,
            steps=plan.steps,
            loss=loss,
            learning_rate=rate,
            tokens=seen,
            seconds=time.monotonic() - started,
        )
        curve.append(
            {
                "step": step + 1,
                "loss": loss,
                "learning_rate": rate,
                "tokens": seen,
                "tokens_per_second": seen / max(now.seconds, 1e-9),
            }
        )
        if context.rank == 0:
            context.report(now)
    return curve


def _step(engine: Any, shards: PackedShards, plan: BatchPlan, step: int, order: StageOrder, context: Context) -> float:
    """One optimiser step over global batch `step`; returns its mean loss over target tokens (nats).

    DeepSpeed averages over ranks and accumulation, so the sum is scaled by both and divided by the targets of
    the whole batch, which every rank knows from the manifest: the number of workers does not change the loss.
    """
    targets = max(1, int(shards.num_targets[plan.rows(step)].sum()))
    micro = order.compute["micro_batch"]
    scale = context.world * engines.accumulation(order, context.world) / targets
    torch.manual_seed(int(np.random.SeedSequence([order.seed, step, context.rank]).generate_state(1)[0]))
    total = torch.zeros((), device=context.device)
    for rows in plan.micro_batches(step, context.rank, context.world, micro):
        loss = engine(collate(shards, rows, micro).to(context.device))
        engine.backward(loss * scale)
        engine.step()
        total += loss.detach()
    if context.world > 1:
        torch.distributed.all_reduce(total)
    return float(total) / targets


def _write(engine: Any, store: Store, order: StageOrder, context: Context, below: str | None) -> dict[str, str]:
    """Files of the new generation's weights, written by rank 0: relative path -> SHA-256."""
    base = (
        None
        if below is None
        else str(store.weights(below))
        if store.local
        else store.uri(f"generations/{below}/weights")
    )
    with tempfile.TemporaryDirectory(prefix="clray-weights-") as scratch:
        engines.save_weights(engine, Path(scratch), context.rank, base)
        if context.rank:
            return {}
        load_tokenizer(store, tokenizer_digest(store, order.parent), order.trust_remote_code).save_pretrained(scratch)
        digests = store.upload(scratch, f"generations/{order.key}/weights")
    return {f"weights/{name}": value for name, value in digests.items()}


def _summary(
    curve: list[dict[str, float]], seconds: float, model: Any, shards: PackedShards, plan: BatchPlan
) -> dict[str, Any]:
    """Steps, tokens, targets, losses and the parameters that were trained."""
    rows = np.concatenate([plan.rows(step) for step in range(plan.steps)])
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
    every = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    tokens, tenth = int(shards.num_tokens[rows].sum()), max(1, len(curve) // 10)
    return {
        "steps": plan.steps,
        "sequences": plan.total,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "targets": int(shards.num_targets[rows].sum()),
        "first_loss": curve[0]["loss"],
        "last_loss": float(np.mean([point["loss"] for point in curve[-tenth:]])),
        "parameters": every,
        "trained_parameters": trained,
    }
