"""How alike the stages' texts are, and the order in which each follows the one most like it.

After Yildiz et al. (arXiv 2402.17400, section 3.1): cosine of mean document embeddings. There the embeddings are
Sentence-BERT's, as they are; here they are any encoder's, with the mean over all stages taken off by default, since the
hidden states of a language model all point much the same way.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clray.data import records
from clray.data.formatting import question
from clray.data.sources import Opened
from clray.errors import SpecError
from clray.instructions import kept, workers
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.models.base import prepare_base
from clray.ray_session import connect, run_dataset
from clray.spec import similarity as spec
from clray.spec.stream import Stage, Stream

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Cosine similarity between stages, as they are given; `start` is each stage's to the text to set out from."""

    stages: tuple[str, ...]
    cosine: tuple[tuple[float, ...], ...]
    start: tuple[float, ...]

    def chain(self) -> tuple[str, ...]:
        """Names of the stages: first the one most like the start, then each time the one most like the one before."""
        here, left, order = np.array(self.start), list(range(len(self.stages))), []
        while left:
            nearest = max(left, key=lambda number: (here[number], -number))
            left.remove(nearest)
            order.append(nearest)
            here = np.array(self.cosine[nearest])
        return tuple(self.stages[number] for number in order)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the report."""
        return asdict(self)


def settled(stream: Stream, store: Store, now: str) -> tuple[Stream, Similarity | None]:
    """The stream with `order: similar` as a list of names, and the similarity of its stages where it is wanted.

    What is not in the store is measured on Ray, which is joined or started for it.
    """
    if stream.order != "similar" and stream.similarity is None:
        return stream, None
    for stage in stream.stages:
        if stage.evolve:
            raise SpecError(
                f"stage '{stage.name}': an evolve stage has no text of its own to compare; give another order than "
                "similar, and no 'similarity'"
            )
    found = _measured(stream, stream.similarity or spec.Similarity(), store, now)
    return (stream.model_copy(update={"order": found.chain()}) if stream.order == "similar" else stream), found


def _measured(stream: Stream, asked: spec.Similarity, store: Store, now: str) -> Similarity:
    encoder = asked.encoder.model_dump(mode="json", exclude_none=True)
    if encoder["kind"] == "generation":
        encoder = {"kind": "generation", "key": prepare_base(stream, store, now).generation.key}
    else:
        encoder["model"] = kept.keep_model(
            encoder["model"], encoder.pop("revision", None), "similarity.encoder.model", store
        )
    mean = functools.partial(_mean, stream=stream, encoder=encoder, documents=asked.documents, store=store)
    vectors = np.stack([mean(records.open_sources(stage.data, store), stage.kind) for stage in stream.stages])
    start = mean(records.open_sources(asked.start, store), "pretrain") if asked.start else vectors[0]
    if asked.centre:
        centre = vectors.mean(axis=0)
        vectors, start = vectors - centre, start - centre
    return _compared(stream.stages, vectors, start)


def _compared(stages: Sequence[Stage], vectors: NDArray[np.float64], start: NDArray[np.float64]) -> Similarity:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first = start / max(float(np.linalg.norm(start)), 1e-12)
    return Similarity(
        stages=tuple(stage.name for stage in stages),
        cosine=tuple(map(tuple, (unit @ unit.T).tolist())),
        start=tuple((unit @ first).tolist()),
    )


def _mean(
    sources: tuple[Opened, ...], kind: str, stream: Stream, encoder: dict[str, Any], documents: int, store: Store
) -> NDArray[np.float64]:
    """The mean embedding (d) of a sample of the documents; kept under all that it depends on."""
    place = f"similarity/{digest([VERSION, [s.digest for s in sources], kind, encoder, documents])}.json"
    known = store.read_json(place)
    if known is None:
        connect(stream)
        texts = sample(sources, kind, documents)
        vectors = np.asarray(workers.embed(texts, encoder, store, stream.evaluation), dtype=np.float64)
        known = {"documents": len(texts), "mean": vectors.mean(axis=0).tolist()}
        store.write_json(place, known)
    return np.asarray(known["mean"])


def sample(sources: tuple[Opened, ...], kind: str, count: int) -> list[str]:
    """Texts of the `count` records of lowest digest: the same whatever the layout of the files, in bounded memory."""
    lowest = functools.partial(_lowest, kind=kind, count=count)
    rows = run_dataset(
        lambda data: records.dataset(data, sources, kind).map_batches(lowest, batch_size=None, batch_format="pyarrow")
    )
    distinct = {row["mark"]: row["text"] for row in rows}
    return [distinct[mark] for mark in sorted(distinct)[:count]]


def _lowest(batch: pa.Table, kind: str, count: int) -> pa.Table:
    texts = [_text(json.loads(record), kind) for record in batch["record"].to_pylist()]
    marks = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    taken = sorted(range(len(texts)), key=marks.__getitem__)[:count]
    return pa.table({"mark": [marks[i] for i in taken], "text": [texts[i] for i in taken]})


def _text(record: dict[str, Any], kind: str) -> str:
    return str(record["text"]) if kind == "pretrain" else "\n\n".join(part for part in question(record) if part)
