"""The parts that cost time, on Ray: embeddings and tags on Ray Data actors, distances as tasks."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.instructions.encoders import make_encoder
from clray.instructions.tagger import make_tagger
from clray.lineage.key import canonical
from clray.lineage.store import Store
from clray.ray_session import ANYWHERE, run_dataset
from clray.replay.wasserstein import Distance, distance
from clray.spec.stream import Evaluation

Weighted = tuple[NDArray[np.float64], NDArray[np.float64]]


class Embedder:
    """Holds an encoder and gives vectors of texts."""

    def __init__(self, encoder: dict[str, Any], root: str) -> None:
        self._encode = make_encoder(encoder, Store(root))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "value": self._encode([str(text) for text in batch["text"]])}


class Tagger:
    """Holds a local instruct model and gives tags of texts."""

    def __init__(self, tagger: dict[str, Any], root: str) -> None:
        self._tag = make_tagger({**tagger, "model": str(Store(root).fetch(f"models/{tagger['model']}"))})

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tags = self._tag([str(text) for text in batch["text"]])
        value = np.empty(len(tags), dtype=object)
        value[:] = tags
        return {"number": batch["number"], "value": value}


def embed(texts: Sequence[str], encoder: dict[str, Any], store: Store, evaluation: Evaluation) -> list[Any]:
    """Vectors of the texts, in order."""
    return _map(texts, Embedder, encoder, store, 256, evaluation)


def tag(texts: Sequence[str], tagger: dict[str, Any], store: Store, evaluation: Evaluation) -> list[Any]:
    """Tags of the texts, in order; a local model's come from Ray Data, others from here."""
    if tagger["kind"] == "model":
        return _map(texts, Tagger, tagger, store, 64, evaluation)
    return make_tagger(tagger)(texts)


def _map(
    texts: Sequence[str], worker: type, spec: dict[str, Any], store: Store, batch: int, evaluation: Evaluation
) -> list[Any]:
    """What the worker says of each text: on Ray Data actors, or, where all fit into one batch, in a task.

    A new actor costs seconds of imports, while a task runs in a process that may still hold the model.
    """
    rows = [{"number": number, "text": text} for number, text in enumerate(texts)]
    resources = {"batch_size": batch, "num_cpus": 1, "num_gpus": evaluation.gpus_per_worker or None}
    if len(rows) <= batch:
        job = functools.partial(_in_task, worker=worker, spec=canonical(spec), root=store.root)
        found = run_dataset(lambda data: data.from_items(rows, override_num_blocks=1).map_batches(job, **resources))
    else:
        found = run_dataset(
            lambda data: data.from_items(rows, override_num_blocks=-(-len(rows) // batch)).map_batches(
                worker, fn_constructor_args=(spec, store.root), concurrency=(1, evaluation.workers), **resources
            )
        )
    return [row["value"] for row in sorted(found, key=lambda row: row["number"])]


def _in_task(batch: dict[str, Any], worker: type, spec: str, root: str) -> dict[str, Any]:
    found: dict[str, Any] = _made(worker, spec, root)(batch)
    return found


@functools.lru_cache(maxsize=2)
def _made(worker: type, spec: str, root: str) -> Any:
    return worker(json.loads(spec), root)


def distances(own: Weighted, past: Sequence[Weighted], metric: str, solver: str, store: Store) -> list[Distance]:
    """Wasserstein distance of each earlier set of weighted vectors from `own`; kept by the content of both sides."""
    import ray

    places = [f"instructions/distances/{_content(own, other, metric, solver)}.json" for other in past]
    known = [store.read_json(place) for place in places]
    wanted = [number for number, value in enumerate(known) if value is None]
    if wanted:
        solve: Any = ray.remote(num_cpus=1, scheduling_strategy=ANYWHERE)(distance)
        mine = [ray.put(part) for part in own]
        for number, found in zip(
            wanted, ray.get([solve.remote(*mine, *past[n], metric, solver) for n in wanted]), strict=True
        ):
            known[number] = asdict(found)
            store.write_json(places[number], known[number])
    return [Distance(**value) for value in known]


def _content(own: Weighted, other: Weighted, metric: str, solver: str) -> str:
    content = hashlib.sha256(f"{metric} {solver}".encode())
    for part in (*own, *other):
        content.update(np.ascontiguousarray(part, dtype=np.float64).tobytes())
    return content.hexdigest()[:32]
