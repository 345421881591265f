"""Dense retrieval: the passages nearest to a query by the cosine of embeddings, each one compared (faiss)."""

from __future__ import annotations

import functools
import hashlib
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.data.manifest import Manifest, Part
from clray.errors import ModelError
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining.ranking import Ranking, best, bounds, search_shards
from clray.mining.shelf import Shelf

VERSION = 1
TEXTS = 8192
"""Texts that the encoder is given at once."""
SPARE = 16
"""Neighbours that are asked for beyond k, so that of equally near ones the lowest digest is among them."""


@dataclass(frozen=True)
class Embedding:
    """Texts (n) -> vectors (n, d), and the digest of all that they depend on."""

    digest: str
    of: Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Dense:
    """The committed vectors of a set of passages, and what embeds the queries."""

    store: Store
    manifest: Manifest
    embedding: Embedding

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query the `k` passages of highest cosine."""
        if not queries:
            return []
        folder, names = self.manifest.folder, [part.name for part in self.manifest.parts[:-1]]
        mean = np.load(self.store.fetch(folder) / "mean.npy", allow_pickle=False)
        vectors = _unit(np.asarray(self.embedding.of(queries), np.float64) - mean)
        starts = self.manifest.provenance["starts"]
        search = functools.partial(_search, store=self.store, folder=folder, names=names, starts=starts, k=k)
        return search_shards(search, len(names), vectors, k)


def check_installed() -> None:
    """Raises ModelError where faiss is not installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise ModelError(
            "knowledge.retriever dense needs the package faiss-cpu: pip install 'clray[dense]', or take "
            "retriever.kind bm25"
        ) from None


def prepare(shelf: Shelf, embedding: Embedding, centre: bool, shards: int) -> Dense:
    """The vectors of the set: taken from the store, or made shard by shard by the embedding and committed."""
    store, mark = shelf.store, digest([VERSION, shelf.manifest.digest, embedding.digest, centre, shards])
    folder = f"indexes/{mark}"
    known = Manifest.take(store, folder)
    if known:
        return Dense(store, known, embedding)
    limits = bounds(len(shelf), shards)
    with tempfile.TemporaryDirectory(prefix="clray-dense-") as scratch:
        files = [Path(scratch) / f"shard-{number:05d}.npy" for number in range(len(limits))]
        total: Any = 0.0
        for file, (start, stop) in zip(files, limits, strict=True):
            vectors = _embedded(shelf, embedding, start, stop)
            total = total + vectors.sum(axis=0, dtype=np.float64)
            np.save(file, vectors, allow_pickle=False)
        mean = total / len(shelf) if centre else np.zeros_like(total)
        parts = [
            _write(store, folder, file.name, _unit(np.load(file, allow_pickle=False) - mean).astype(np.float32))
            for file in files
        ]
    manifest = Manifest(
        digest=mark,
        folder=folder,
        parts=(*parts, _write(store, folder, "mean.npy", mean)),
        provenance={
            "knowledge": shelf.manifest.digest,
            "embedding": embedding.digest,
            "starts": [start for start, _ in limits],
        },
    )
    manifest.commit(store)
    return Dense(store, manifest, embedding)


def _embedded(shelf: Shelf, embedding: Embedding, start: int, stop: int) -> NDArray[np.float32]:
    blocks = [
        np.asarray(embedding.of(shelf.texts(first, min(first + TEXTS, stop))), np.float32)
        for first in range(start, stop, TEXTS)
    ]
    return np.concatenate(blocks)


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _write(store: Store, folder: str, name: str, values: NDArray[Any]) -> Part:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    store.write_bytes(f"{folder}/{name}", content.getvalue())
    return Part(name=name, rows=0, tokens=0, targets=0, sha256=hashlib.sha256(content.getvalue()).hexdigest())


def _search(
    shard: int,
    queries: NDArray[np.float64],
    store: Store,
    folder: str,
    names: list[str],
    starts: list[int],
    k: int,
) -> list[Ranking]:
    """The best of one shard for each query: faiss finds them, and their cosines are taken again in double precision,
    since the last bits of a product of matrices depend on how many rows they have."""
    import faiss

    vectors = np.load(store.fetch(folder) / names[shard], mmap_mode="r", allow_pickle=False)
    count = min(k + SPARE, len(vectors))
    near = faiss.knn(queries.astype(np.float32), vectors, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
    cosines = [
        (vectors[rows].astype(np.float64) * query).sum(axis=1) for rows, query in zip(near, queries, strict=True)
    ]
    return [best(rows + starts[shard], values, k) for rows, values in zip(near, cosines, strict=True)]
