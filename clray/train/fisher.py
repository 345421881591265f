"""How sure earlier stages were of each weight: the diagonal Fisher of a generation, for elastic weight consolidation.

    generations/<key>/ewc/<digest of the settings>/
        fisher.safetensors    NAME: the Fisher of a trained weight; NAME/centre where it is not the generation's weight
        state.json            settings, examples, targets, SHA-256 of the file; written last: the state exists

Measured when a stage first wants it, on the model that the stage starts from, with the generation's own examples: no
generation has to be trained again for a stage that comes later, and a merged one is measured as it is. It follows from
the generation's record and the settings alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.torch
import torch

from clray.data.batches import PackedShards, Sequence
from clray.data.manifest import Manifest
from clray.errors import StorageError
from clray.lineage.finding import ancestry
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.models.loading import trainable_model
from clray.spec.regulariser import PREDICTING
from clray.train.context import Context
from clray.train.objective import TargetLoss, collate
from clray.train.order import StageOrder

FOLDER = "ewc"
FILE, NOTE = "fisher.safetensors", "state.json"
CENTRE = "/centre"
State = dict[str, torch.Tensor]


def running(store: Store, order: StageOrder, parent: Generation, model: Any, context: Context) -> State:
    """Fisher of all that the line has learnt in these weights, up to the `parent` at which `model` stands.

    Names of the trained weights -> Fisher, and NAME/centre -> centre where that is not the parent's weight (see
    `together`). Stages count back to the last one that trained other weights. Every rank must call it. Raises
    StorageError where the examples or the weights of one of them are gone.
    """
    settings = {name: order.recipe["regulariser"].get(name) for name in ("fisher", "decay", "samples")}
    chain = same_weights(ancestry(store, parent), order.recipe["adapter"])
    found = context.agree([kept(store, made, settings) for made in chain] if context.rank == 0 else [])
    known = max((number for number, there in enumerate(found) if there), default=-1)
    state = load(store, chain[known], settings) if known >= 0 else None
    for made in chain[known + 1 :]:
        standing = model if made is parent else _model(store, made, order)
        own, targets = diagonal(standing, examples(store, made, settings["samples"]), context)
        weights = {name: p.detach().float().cpu() for name, p in standing.named_parameters() if p.requires_grad}
        state = together(state, own, weights, settings)
        if context.rank == 0:
            _keep(store, made, settings, state, targets)
        context.agree(None)
    assert state is not None, "the plan refuses a stage whose parent trained other weights"
    return state


def same_weights(line: list[Generation], adapter: dict[str, Any]) -> list[Generation]:
    """The last generations of the line that trained the weights of this adapter, without a gap, oldest first."""
    chain: list[Generation] = []
    for made in reversed(line):
        if made.stage.get("adapter") != adapter:
            break
        chain.insert(0, made)
    return chain


def diagonal(model: Any, sequences: list[Sequence], context: Context) -> tuple[State, int]:
    """Diagonal of the empirical Fisher of the mean loss of a target, on the CPU in fp32, and the number of targets.

    F = sum over examples (gradient of the sum of the example's losses)^2 / targets: gradients of single examples at
    their true targets (Kirkpatrick et al., section 2.1, with labels of the data). The square of a batch's gradient
    would be near nothing at a minimum, where its examples cancel. Ranks share the examples; dropout is off.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.to(context.device).eval()
    loss_of = TargetLoss(model)
    squares = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
    for number in range(context.rank, len(sequences), context.world):
        loss = loss_of(collate(sequences, np.array([number]), 1).to(context.device))
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square += gradient.float().square()
    targets = sum(int(sequence.targets.sum()) for sequence in sequences)
    for square in squares.values():
        if context.world > 1:
            torch.distributed.all_reduce(square)
        square /= max(1, targets)
    return {name: square.cpu() for name, square in squares.items()}, targets


def together(before: State | None, own: State, weights: State, settings: dict[str, Any]) -> State:
    """The state after a stage whose own Fisher is `own` and whose trained `weights` are these.

    Online it is decay * before + own, around the weights. Per task the penalties of all stages add up, and a sum of
    parabolas is one parabola: sum F_i (x - x_i)^2 = (sum F_i) (x - c)^2 + a constant, with c the mean of the x_i
    weighed by F_i. So Fisher and centre suffice for any number of stages; the constant is left out of the loss.
    """
    if settings["fisher"] == "online":
        return {name: own[name] + (settings["decay"] * before[name] if before else 0.0) for name in own}
    state: State = {}
    for name, new in own.items():
        old = before[name] if before else torch.zeros_like(new)
        total = old + new
        centre = before[f"{name}{CENTRE}"] if before else weights[name]
        moved = centre + (weights[name] - centre) * new / total.clamp(min=torch.finfo(torch.float32).tiny)
        state |= {name: total, f"{name}{CENTRE}": moved}
    return state


def examples(store: Store, made: Generation, count: int) -> list[Sequence]:
    """At most `count` of the generation's own examples, drawn by its seed from what it trained on; none of a stage that
    predicts no text, which hands on the Fisher of those before it."""
    if made.stage["kind"] not in PREDICTING:
        return []
    folder = f"mixtures/{made.data['digest']}"
    manifest = Manifest.load(store, folder)
    if manifest is None:
        raise StorageError(
            f"storage '{store.root}': {folder} is gone, which generation {made.short} ({made.stage_name}) was trained "
            "on and its Fisher is measured on. Give the stage another method.regulariser, or delete generations/"
            f"{made.key}: it is then made again, with its data."
        )
    own = len(made.data["origins"]) - len(made.receipt["draws"])
    found: list[Sequence] = []
    shards = PackedShards(store, manifest)
    for row in np.random.default_rng([made.receipt["seed"], count]).permutation(len(shards)):
        found += [one for one in split(shards[int(row)]) if one.origins[0] < own and one.targets.any()]
        if len(found) >= count:
            break
    return found[:count]


def split(sequence: Sequence) -> Iterator[Sequence]:
    """The examples of a packed sequence, each as a sequence of its own."""
    start = 0
    for length, origin in zip(sequence.segments, sequence.origins, strict=True):
        stop = start + int(length)
        alone = np.asarray([length]), np.asarray([origin])
        yield Sequence(sequence.ids[start:stop], sequence.targets[start:stop], *alone)
        start = stop


def folder_of(made: Generation, settings: dict[str, Any]) -> str:
    """Where the generation's state lies."""
    return f"generations/{made.key}/{FOLDER}/{digest(settings, 16)}"


def kept(store: Store, made: Generation, settings: dict[str, Any]) -> bool:
    """Whether the state is there."""
    return store.exists(f"{folder_of(made, settings)}/{NOTE}")


def load(store: Store, made: Generation, settings: dict[str, Any]) -> State:
    """The state; StorageError where the file is not what was written."""
    folder = folder_of(made, settings)
    note = store.read_json(f"{folder}/{NOTE}")
    if store.damaged(folder, {FILE: note["sha256"]}):
        raise StorageError(
            f"storage '{store.root}': {folder}/{FILE} is missing or altered since it was written. Delete {folder} and "
            "run the same command again: it is then measured again."
        )
    return safetensors.torch.load_file(store.fetch(folder) / FILE)


def _keep(store: Store, made: Generation, settings: dict[str, Any], state: State, targets: int) -> None:
    content, folder = safetensors.torch.save(state), folder_of(made, settings)
    store.write_bytes(f"{folder}/{FILE}", content)
    sha256 = hashlib.sha256(content).hexdigest()
    store.write_json(f"{folder}/{NOTE}", {**settings, "targets": targets, "sha256": sha256})


def _model(store: Store, made: Generation, order: StageOrder) -> Any:
    """The generation's model as the next stage would train it."""
    recipe = order.recipe
    return trainable_model(
        store, made, recipe["adapter"], recipe["precision"], order.attention, order.trust_remote_code
    )[0]
