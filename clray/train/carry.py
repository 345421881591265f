"""AdamW's state handed from a generation to the next stage: moments by name, and the count of steps.

    generations/<key>/optimiser/
        moments-00000.safetensors ...   NAME/exp_avg and NAME/exp_avg_sq; which rank wrote which does not matter

Their digests stand in the generation's record, as those of its weights do, and the count of steps as
`training.optimiser_steps`: of all stages since the state was last begun anew.
"""

from __future__ import annotations

import hashlib
from typing import Any

import safetensors.torch

from clray.errors import StorageError
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.train import state
from clray.train.context import Context

FOLDER = "optimiser"
STEPS = "optimiser_steps"


def files_of(store: Store, generation: Generation) -> dict[str, str]:
    """Name -> SHA-256 of the files with the generation's moments; StorageError where it was made without any."""
    found = generation.files_below(FOLDER)
    if not found:
        raise StorageError(
            f"storage '{store.root}': generation {generation.short} ({generation.stage_name}) is there without its "
            "optimiser's state, since nothing asked for it when it was trained. Say optimiser.state: reset for the "
            f"stage that follows, or delete generations/{generation.key}: it is then made again, with its state."
        )
    return found


def steps_behind(store: Store, recipe: dict[str, Any], parent: Generation) -> int:
    """Optimiser steps that AdamW counts before the first one of a stage with this recipe; 0 where it starts afresh.

    StorageError where it is to go on with a state that the parent was made without.
    """
    if recipe["optimiser"].get("state") != "carry":
        return 0
    files_of(store, parent)
    return int(parent.training[STEPS])


def take(engine: Any, store: Store, parent: Generation, steps: int) -> None:
    """Gives the engine the moments of the parent, and the count of steps behind them. Every rank must call it.

    Raises StorageError where the parent has none, or a file is not what was written.
    """
    files = files_of(store, parent)
    folder = f"generations/{parent.key}/{FOLDER}"
    damaged = store.damaged(folder, files)
    if damaged:
        raise StorageError(
            f"storage '{store.root}': {folder}/{damaged[0]} is missing or altered since it was written. Delete "
            f"generations/{parent.key} and run the same command again: the generation is then made again."
        )
    tensors = {}
    for name in files:
        tensors.update(safetensors.torch.load_file(store.fetch(folder) / name))
    state.restore(engine, tensors, steps, state.MOMENTS)


def keep(engine: Any, store: Store, key: str, context: Context) -> dict[str, str]:
    """Writes the moments beside the generation of that key; relative path -> SHA-256. Every rank must call it."""
    content = safetensors.torch.save(state.read(engine, context.rank, context.world, state.MOMENTS))
    name = f"{FOLDER}/moments-{context.rank:05d}.safetensors"
    store.write_bytes(f"generations/{key}/{name}", content)
    return dict(context.gather((name, hashlib.sha256(content).hexdigest())))
