"""The process that trains the stages of gpu_stage.py: jobs come as JSON lines on stdin, events leave as JSON lines.

    python benchmarks/stage_child.py FD

Events go to the open file descriptor FD: `ready` with what there is to train on, `prepared`, `step`, `said`, `stands`
(wants to be killed), `done`, `error`.
Everything is seeded; the first job that needs a model or a mixture writes it into the store.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from stage_figures import SHAPES

from clray.data.manifest import Manifest, write_part
from clray.data.packing import best_fit_decreasing, cut
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.models import varlen
from clray.models.base import prepare_base
from clray.models.builtin import build_tokenizer
from clray.spec import loading
from clray.spec.recipe import resolve
from clray.spec.stream import Stream
from clray.train.context import Context
from clray.train.loop import train_stage
from clray.train.order import Progress, StageOrder, StageResult

MEDIAN_LENGTH, SPREAD, LEAST_LENGTH = 350, 1.2, 16
"""Documents are log-normal in length, as web text is: half have under 350 tokens, the mean has about 700."""


class Enough(Exception):
    """All steps of a measured stage are done; its weights are not wanted."""


def main() -> None:
    """Says what there is, then carries out jobs until stdin ends."""
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1)

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    importlib.import_module("deepspeed")
    tell("ready", **surroundings(device))
    with tempfile.TemporaryDirectory(prefix="clray-group-") as folder:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        for line in sys.stdin:
            try:
                Work(json.loads(line), device, tell).run()
            except Exception as error:
                tell("error", error=f"{type(error).__name__}: {error}".strip().splitlines()[0])
        torch.distributed.destroy_process_group()


def surroundings(device: torch.device) -> dict[str, Any]:
    """Device, versions, and why an attention cannot be used here (None: it can)."""
    cuda = device.type == "cuda"
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "deepspeed", "peft")}
    flash = None if importlib.util.find_spec("flash_attn") else "the package flash-attn is not installed"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "cuda": cuda,
        "memory": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "versions": {"python": platform.python_version(), **versions, "cuda": torch.version.cuda},
        "missing": {"sdpa": None, varlen.NAME: varlen.missing(), "flash_attention_2": flash},
    }


class Work:
    """One job: a model, a mixture, and one stage or two of it."""

    def __init__(self, job: dict[str, Any], device: torch.device, tell: Any) -> None:
        self.job, self.device, self.tell = job, device, tell
        self.store = Store(job["storage"])
        self.base = self._model()
        self.mixture = mixture(self.store, job["rows"], job["length"], min(s["vocab_size"] for s in self._shapes()))
        tell("prepared", shape=self.base.training["shape"], mixture=self.mixture.summary() | self.mixture.provenance)

    def run(self) -> None:
        """Trains what the job says, and tells of it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        match self.job["kind"]:
            case "measure":
                try:
                    self.train("measured", until_the_last_step=True)
                except Enough:
                    self.tell("done", peak_bytes=self._peak())
            case "killed":
                self.train("killed", stop_at=self.job["stop_at"])
            case "resumed":
                resumed = self.train("killed")
                whole = self.train("whole", checkpoints=False)
                self.tell("done", peak_bytes=self._peak(), resumed=outcome(resumed), whole=outcome(whole))

    def train(
        self, key: str, checkpoints: bool = True, until_the_last_step: bool = False, stop_at: int | None = None
    ) -> StageResult:
        """The stage under that key. At step `stop_at` it waits for its end, which comes from outside."""

        def report(progress: Progress) -> None:
            self.tell("step", **{**dataclasses.asdict(progress), "key": key})
            if progress.step == stop_at:
                self._stand(key)
            if until_the_last_step and progress.step == progress.steps:
                raise Enough

        def say(text: str) -> None:
            self.tell("said", text=text, key=key)

        context = Context(rank=0, world=1, device=self.device, report=report, say=say)
        return train_stage(self._order(key, checkpoints and not until_the_last_step), context)

    def _stand(self, key: str) -> None:
        """Waits until a checkpoint is complete, says so, and waits for the end."""
        folder = f"checkpoints/{self._key(key)}"
        while not any(self.store.exists(f"{folder}/{name}/checkpoint.json") for name in self.store.list(folder)):
            time.sleep(0.1)
        self.tell("stands")
        signal.pause()

    def _key(self, key: str) -> str:
        return f"{key}-{self.job['name']}"

    def _order(self, key: str, checkpoints: bool) -> StageOrder:
        stream = self._stream(str(self.store.weights(self.base.key)), checkpoints)
        return StageOrder(
            storage=self.store.root,
            key=self._key(key),
            parent=self.base.key,
            mixture=self.mixture.digest,
            recipe=resolve(stream, stream.stages[0], {}, first=True).resolved,
            seed=stream.seed,
            compute=stream.compute.model_dump(mode="json"),
            attention=stream.model.attention,
        )

    def _stream(self, base: str, checkpoints: bool = False) -> Stream:
        job = self.job
        compute = {name: job[name] for name in ("zero_stage", "precision", "micro_batch")}
        return loading.validate(
            {
                "name": "benchmark",
                "model": {"base": base, "attention": job["attention"]},
                "storage": job["storage"],
                "sequence_length": job["length"],
                "batch": {"size": job["batch"]},
                "optimiser": {"learning_rate": 1e-4},
                "method": {"adapter": {"kind": job["adapter"]} | ({"rank": 16} if job["adapter"] == "lora" else {})},
                "compute": compute
                | ({"compile": True} if job["compile"] else {})
                | {"checkpoint": {"every_steps": job["every_steps"] if checkpoints else None, "every_minutes": None}},
                "stages": [{"name": "s", "kind": "pretrain", "data": "none.txt", "length": {"steps": job["steps"]}}],
            }
        )

    def _model(self) -> Generation:
        """The model with random weights as generation 0 of the store; made on the device, which is faster."""
        note = f"benchmark/{self.job['model']}.json"
        if known := self.store.read_json(note):
            return self.store.generation(known["key"]) or sys.exit("the benchmark's store was altered")
        shape = SHAPES[self.job["model"]]
        dtype = torch.bfloat16 if self.job["precision"] == "bf16" else torch.float32
        config = transformers.LlamaConfig(
            **shape, max_position_embeddings=self.job["length"], bos_token_id=0, eos_token_id=0, pad_token_id=1
        )
        torch.manual_seed(0)
        with torch.device(self.device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        with tempfile.TemporaryDirectory(prefix="clray-model-", dir=self.store.root) as folder:
            model.cpu().save_pretrained(folder)
            build_tokenizer(["a b"], 300).save_pretrained(folder)
            base = prepare_base(self._stream(folder), self.store, created="").generation
        self.store.write_json(note, {"key": base.key})
        return base

    def _shapes(self) -> list[dict[str, Any]]:
        """All models of the run, so that one mixture does for all."""
        return [SHAPES[name] for name in self.job["models"]]

    def _peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


def outcome(result: StageResult) -> dict[str, Any]:
    """Digests of the weights and the loss of the last step."""
    weights = {name: value for name, value in result.files.items() if name.endswith(".safetensors")}
    return {"weights": weights, "last_loss": result.curve[-1]["loss"], "steps": len(result.curve)}


def mixture(store: Store, rows: int, length: int, vocabulary: int) -> Manifest:
    """A mixture of random documents in about so many packed rows: cut and packed as a real one."""
    name = f"random-{rows}x{length}-{vocabulary}"
    if known := Manifest.load(store, f"mixtures/{name}"):
        return known
    generator = np.random.default_rng(0)
    sizes = generator.lognormal(np.log(MEDIAN_LENGTH), SPREAD, 4 + 4 * rows * length // MEDIAN_LENGTH).astype(int)
    sizes = np.clip(sizes, LEAST_LENGTH, None)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), rows * length)) + 1]
    pieces = cut(sizes.tolist(), length)
    packed = [[pieces[i] for i in row] for row in best_fit_decreasing([piece.length for piece in pieces], length)]
    ids, targets = [], []
    for row in packed:
        ids.append(generator.integers(2, vocabulary, sum(piece.length for piece in row)).astype(np.int32))
        targets.append(np.concatenate([np.arange(p.length) >= max(1, p.context) for p in row]))
    segments = [[piece.length for piece in row] for row in packed]
    table = pa.table(
        {
            "ids": pa.array(ids, pa.list_(pa.int32())),
            "targets": pa.array(targets, pa.list_(pa.bool_())),
            "segments": pa.array(segments, pa.list_(pa.int32())),
            "origins": pa.array([[0] * len(row) for row in segments], pa.list_(pa.int16())),
            "num_tokens": pa.array([sum(row) for row in segments], pa.int32()),
            "num_targets": pa.array([int(t.sum()) for t in targets], pa.int32()),
        }
    )
    lengths = np.array([piece.length for piece in pieces], dtype=np.float64)
    folder = f"mixtures/{name}"
    manifest = Manifest(
        digest=name,
        folder=folder,
        parts=(write_part(store, folder, 0, table),),
        provenance={
            "sequence_length": length,
            "segments": len(pieces),
            "mean_segment": float(lengths.mean()),
            "seen_by_a_token": float((lengths**2).sum() / lengths.sum()),
            "fill": float(lengths.sum() / (len(packed) * length)),
        },
    )
    manifest.commit(store)
    return manifest


if __name__ == "__main__":
    main()
