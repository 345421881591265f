"""Checkpoints of a running stage: any number of workers and any ZeRO stage writes and reads the same files.

    checkpoints/<key>/<step>-<attempt>/
        state-00000.safetensors ...   weights and moments by name; which rank wrote which does not matter
        state-00000.json ...          digest of each, written when it is complete
        checkpoint.json               step, curve, digests; written last, by rank 0: the checkpoint exists

The state is copied to host memory between two steps and written by a thread, so training does not wait for
the storage. LoRA stages save the adapter alone. Where DeepSpeed's universal checkpoint converts the pieces
of each rank when the number of workers changed, these files never have pieces, and hold no pickle.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from clray.errors import UserError
from clray.lineage.store import Store

PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: where it lies, the optimiser steps behind it, training curve and seconds so far."""

    folder: str
    step: int
    mixture: str
    curve: list[dict[str, float]]
    seconds: float
    files: dict[str, str]

    def tensors(self, store: Store) -> dict[str, torch.Tensor]:
        """All tensors by name, on the CPU."""
        folder, tensors = store.fetch(self.folder), {}
        for name in self.files:
            tensors.update(safetensors.torch.load_file(folder / name))
        return tensors


class Checkpoints:
    """The checkpoints of one stage, as one rank sees them. At most one is being written."""

    def __init__(self, store: Store, key: str, keep: int, say: Callable[[str], None]) -> None:
        self._store = store
        self._folder = f"checkpoints/{key}"
        self._keep = keep
        self._say = say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clray-checkpoint")
        self._pending: Future[None] | None = None

    def newest(self, mixture: str) -> Checkpoint | None:
        """The newest checkpoint that is complete, whole, and of the same mixture; damaged ones are named."""
        for name in reversed(self._store.list(self._folder)):
            folder = f"{self._folder}/{name}"
            try:
                found = self.load(folder)
                if found is None or found.mixture != mixture:
                    continue
                damaged = self._store.damaged(folder, found.files)
            except UserError as error:
                damaged = [str(error)]
            if not damaged:
                return found
            self._say(f"checkpoint {folder} is not used: {', '.join(damaged)} is missing or altered")
        return None

    def load(self, folder: str) -> Checkpoint | None:
        """The checkpoint in that folder, if it is complete."""
        record = self._store.read_json(f"{folder}/checkpoint.json")
        return None if record is None else Checkpoint(folder=folder, **record)

    def save(self, tensors: dict[str, torch.Tensor], rank: int, world: int, attempt: str, **record: Any) -> None:
        """Begins to write this rank's tensors; waits first for the checkpoint before. Every rank must call it."""
        self.wait()
        folder = f"{self._folder}/{record['step']:09d}-{attempt}"
        self._pending = self._thread.submit(self._write, folder, tensors, rank, world, record)

    def wait(self) -> None:
        """Returns when nothing is being written. A checkpoint that failed is said; training goes on without it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except Exception as error:
                self._say(f"checkpoint not saved: {error}")

    def close(self) -> None:
        """Waits, and ends the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(
        self, folder: str, tensors: dict[str, torch.Tensor], rank: int, world: int, record: dict[str, Any]
    ) -> None:
        content = safetensors.torch.save(tensors)
        self._store.write_bytes(f"{folder}/state-{rank:05d}.safetensors", content)
        self._store.write_json(f"{folder}/state-{rank:05d}.json", {"sha256": hashlib.sha256(content).hexdigest()})
        if rank:
            return
        files = {f"state-{r:05d}.safetensors": self._digest(f"{folder}/state-{r:05d}.json") for r in range(world)}
        self._store.write_json(f"{folder}/checkpoint.json", {**record, "files": files})
        self._prune(folder.rpartition("/")[2])

    def _prune(self, newest: str) -> None:
        """Keeps the newest complete checkpoints up to this one; a later one is an earlier attempt's, and unusable."""
        names = self._store.list(self._folder)
        complete = [n for n in names if n <= newest and self._store.exists(f"{self._folder}/{n}/checkpoint.json")]
        for name in set(names) - set(complete[-self._keep :]):
            self._store.delete(f"{self._folder}/{name}")

    def _digest(self, note: str) -> str:
        """The digest that another rank leaves when its file is complete."""
        stop = time.monotonic() + PATIENCE_SECONDS
        while (found := self._store.read_json(note)) is None:
            if time.monotonic() > stop:
                raise TimeoutError(f"{note} did not appear within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.05)
        return str(found["sha256"])


def clear(store: Store, key: str) -> None:
    """Removes all checkpoints of the stage, whose generation is there."""
    store.delete(f"checkpoints/{key}")


def sweep(store: Store) -> None:
    """Removes checkpoints that a run left of generations which are there by now."""
    for key in store.list("checkpoints"):
        if store.generation(key) is not None:
            clear(store, key)
