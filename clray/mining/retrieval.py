"""Knowledge that can be searched: passages, the counts of their terms, and an index. The one door to this room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clray.data.records import open_sources
from clray.lineage.store import Store
from clray.mining import bm25, dense, passages, terms
from clray.mining.dense import Embedding
from clray.mining.ranking import Ranking
from clray.mining.shelf import Passage, Shelf
from clray.mining.terms import Terms
from clray.spec import knowledge as spec

PASSAGES_PER_SHARD = 200_000


class Index(Protocol):
    """Finds passages of a set by a query."""

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query the best `k` passages, by number."""


@dataclass(frozen=True)
class Hit:
    """A passage that was found: its digest, its score, and its place (from 0) among those of the query."""

    passage: str
    score: float
    rank: int


@dataclass(frozen=True)
class Knowledge:
    """A prepared set of passages with its counts and its index."""

    shelf: Shelf
    terms: Terms
    index: Index

    @property
    def digest(self) -> str:
        """Address of the set of passages."""
        return self.shelf.manifest.digest

    def passages(self, digests: Sequence[str]) -> list[Passage]:
        """The passages of those digests, in order."""
        return self.shelf.passages(digests)

    def idf(self, texts: Sequence[str]) -> list[float | None]:
        """Rarity of each word or phrase, see `Terms.idf`."""
        return self.terms.idf(texts)


def prepare(
    asked: spec.Knowledge, tokenizer: str, tokenizer_digest: str, store: Store, embedding: Embedding | None = None
) -> Knowledge:
    """The knowledge that is asked for, each part taken from the store or made on Ray, which must be connected.

    `embedding` is needed by a dense retriever alone. DataError or ModelError where a source, the tokenizer or a
    package does not serve, before anything is made.
    """
    if asked.retriever.kind == "dense":
        dense.check_installed()
    made = passages.prepare(
        passages.PassageSpec(
            sources=open_sources(asked.sources, store),
            tokenizer=tokenizer,
            tokenizer_digest=tokenizer_digest,
            tokens=asked.tokens,
            overlap=asked.overlap,
        ),
        store,
    )
    shelf = Shelf(store, made)
    shards = asked.shards or math.ceil(len(shelf) / PASSAGES_PER_SHARD)
    if asked.retriever.kind == "bm25":
        index, counted = bm25.prepare(shelf, asked.retriever, asked.stemmer, shards)
        return Knowledge(shelf, counted, index)
    assert embedding is not None, "a dense retriever comes with its embedding"
    counted = terms.prepare(shelf, asked.stemmer, shards)
    return Knowledge(shelf, counted, dense.prepare(shelf, embedding, asked.retriever.centre, shards))


def search(knowledge: Knowledge, queries: Sequence[str], k: int) -> list[list[Hit]]:
    """For each query the best `k` passages, the best first; of equal scores the lower digest comes first.

    BM25 gives fewer where fewer passages share a term with the query.
    """
    rankings = knowledge.index.search(queries, k)
    numbers = np.unique(np.concatenate([np.empty(0, np.int64), *(ranking.numbers for ranking in rankings)]))
    digests = dict(zip(numbers.tolist(), knowledge.shelf.digests(numbers), strict=True))
    return [_hits(ranking, digests) for ranking in rankings]


def _hits(ranking: Ranking, digests: dict[int, str]) -> list[Hit]:
    pairs: list[Any] = list(zip(ranking.numbers.tolist(), ranking.scores.tolist(), strict=True))
    return [Hit(digests[number], score, rank) for rank, (number, score) in enumerate(pairs)]
