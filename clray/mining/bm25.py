"""BM25 over any number of shards, each an index of bm25s that is memory-mapped when it is searched.

A shard is scored with the idf and the mean length of the whole set (`terms.py`), in the format that bm25s saves. So a
passage has the same score, to the bit, in however many shards the set lies, and merging loses nothing.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.data.manifest import Manifest, Part
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining import terms
from clray.mining.ranking import Ranking, best_above_zero, bounds, search_shards
from clray.mining.shelf import Shelf
from clray.mining.terms import Postings, Terms
from clray.ray_session import ANYWHERE
from clray.spec.knowledge import Bm25Retriever

VERSION = 1
AT_ONCE = 1 << 22
"""Postings that are scored at once."""


@dataclass(frozen=True)
class Bm25:
    """The committed index of a set of passages."""

    store: Store
    manifest: Manifest
    stemmer: str

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query the `k` passages of highest score; fewer where fewer share a term with it."""
        folders = [f"{self.manifest.folder}/{name}" for name in self.manifest.provenance["shards"]]
        starts = self.manifest.provenance["starts"]
        search = functools.partial(_search, store=self.store, folders=folders, starts=starts, stemmer=self.stemmer, k=k)
        return search_shards(search, len(folders), queries, k)


def prepare(shelf: Shelf, retriever: Bm25Retriever, stemmer: str, shards: int) -> tuple[Bm25, Terms]:
    """The index of the set and its counts: taken from the store, or made on Ray and committed."""
    shape = [VERSION, shelf.manifest.digest, stemmer, retriever.model_dump(mode="json"), shards]
    folder = f"indexes/{digest(shape)}"
    known = Manifest.take(shelf.store, folder)
    if known:
        return Bm25(shelf.store, known, stemmer), terms.prepare(shelf, stemmer, shards)
    import ray

    counted, postings = terms.count(shelf, stemmer, shards)
    task: Any = ray.remote(num_cpus=1, scheduling_strategy=ANYWHERE)(_build)
    names = [f"shard-{number:05d}" for number in range(len(postings))]
    parts = ray.get(
        [
            task.remote(found, counted, retriever, f"{folder}/{name}")
            for name, found in zip(names, postings, strict=True)
        ]
    )
    starts = [start for start, _ in bounds(len(shelf), shards)]
    manifest = Manifest(
        digest=digest(shape),
        folder=folder,
        parts=tuple(part for shard in parts for part in shard),
        provenance={"knowledge": shelf.manifest.digest, "shards": names, "starts": starts},
    )
    manifest.commit(shelf.store)
    return Bm25(shelf.store, manifest, stemmer), counted


def scores(postings: Postings, idf: NDArray[np.float64], mean: float, k1: float, b: float) -> NDArray[np.float32]:
    """BM25's part of each posting: idf x tf / (tf + k1 (1 - b + b length / mean length)), as Lucene leaves out k1 + 1.

    `idf` is that of each term of the vocabulary, `mean` the mean length of all passages, of whichever shard.
    """
    norm = k1 * (1 - b + b * postings.lengths / mean)
    found = np.empty(len(postings.passages), np.float32)
    for first, last in _slices(postings.starts):
        here = slice(postings.starts[first], postings.starts[last])
        tf = postings.counts[here].astype(np.float64)
        rarity = np.repeat(idf[first:last], np.diff(postings.starts[first : last + 1]))
        found[here] = rarity * tf / (tf + norm[postings.passages[here]])
    return found


def _slices(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Terms first to last of about AT_ONCE postings each."""
    edges = np.searchsorted(starts, np.arange(0, starts[-1], AT_ONCE)).tolist()
    return pairwise(dict.fromkeys([*edges, len(starts) - 1]))


def _build(postings: Postings, counted: Terms, retriever: Bm25Retriever, folder: str) -> list[Part]:
    """Writes the index of one shard as bm25s saves it; returns its manifest entries."""
    import bm25s

    idf = terms.idf(counted.counts(postings.vocabulary), counted.num_passages)
    index = bm25s.BM25(k1=retriever.k1, b=retriever.b, method="lucene")
    index.scores = {
        "data": scores(postings, idf, counted.mean_length, retriever.k1, retriever.b),
        "indices": postings.passages,
        "indptr": postings.starts,
        "num_docs": len(postings.lengths),
    }
    index.vocab_dict = {term: number for number, term in enumerate(postings.vocabulary.to_pylist())}
    index.nonoccurrence_array = None
    with tempfile.TemporaryDirectory(prefix="clray-bm25-") as scratch:
        index.save(scratch, show_progress=False)
        files = counted.store.upload(scratch, folder)
    name = folder.rpartition("/")[2]
    return [Part(name=f"{name}/{file}", rows=0, tokens=0, targets=0, sha256=mark) for file, mark in files.items()]


@functools.lru_cache(maxsize=64)
def _load(folder: str) -> Any:
    import bm25s

    return bm25s.BM25.load(folder, mmap=True, show_progress=False)


def _search(
    shard: int, queries: Sequence[str], store: Store, folders: list[str], starts: list[int], stemmer: str, k: int
) -> list[Ranking]:
    """The best of one shard for each query. Terms are added up in one order, whichever way the query has them."""
    index = _load(str(store.fetch(folders[shard])))
    found = []
    for query in queries:
        ids = index.get_tokens_ids(sorted(terms.terms_of(query, stemmer)))
        values = index.get_scores_from_ids(ids)
        ranking = best_above_zero(values, k)
        found.append(Ranking(ranking.numbers + starts[shard], ranking.scores))
    return found
