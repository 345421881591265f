"""How often terms occur in a set of passages: counted shard by shard on Ray, merged, and kept by content."""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clray.data.manifest import Manifest, Part, arrow_bytes
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining.ranking import bounds
from clray.mining.shelf import Shelf, open_part
from clray.mining.words import words
from clray.ray_session import ANYWHERE

VERSION = 1
BLOCK = 1 << 14
"""Passages that are counted at once."""


class Postings(NamedTuple):
    """Where the terms of n passages stand: `vocabulary` in order of the alphabet, and for term t the numbers of the
    passages that hold it, in order, and how often each does, between `starts[t]` and `starts[t + 1]`; and the number
    of terms of each passage (n)."""

    vocabulary: pa.Array
    starts: NDArray[np.int64]
    passages: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int64]


@functools.lru_cache(maxsize=2)
def stemming(stemmer: str) -> Callable[[Sequence[str]], list[str]]:
    """A function from words to their terms."""
    if stemmer == "none":
        return list
    import Stemmer

    stem: Callable[[Sequence[str]], list[str]] = Stemmer.Stemmer(stemmer).stemWords
    return stem


def terms_of(text: str, stemmer: str) -> list[str]:
    """The terms of a text, in order."""
    return stemming(stemmer)(words(text))


class _Numbers(dict[str, int]):
    """Word -> number of its term; a new word is stemmed once."""

    def __init__(self, stem: Callable[[Sequence[str]], list[str]]) -> None:
        self.terms: dict[str, int] = {}
        self._stem = stem

    def __missing__(self, word: str) -> int:
        number = self[word] = self.terms.setdefault(self._stem([word])[0], len(self.terms))
        return number


def post(texts: Iterable[str], stemmer: str) -> Postings:
    """The postings of the texts, counted block by block: beyond them it holds one block's words at a time."""
    numbers, blocks, source = _Numbers(stemming(stemmer)), [], iter(texts)
    while some := list(islice(source, BLOCK)):
        blocks.append(_block(some, numbers))
    names = sorted(numbers.terms)
    order = np.array([numbers.terms[name] for name in names], np.int64)
    totals = np.zeros(len(names), np.int64)
    for starts, *_ in blocks:
        totals[: len(starts) - 1] += np.diff(starts)
    ends = np.concatenate([[0], np.cumsum(totals[order])])
    lengths = [block[-1] for block in blocks]
    return Postings(
        pa.array(names, pa.string()),
        ends,
        *_together(blocks, order, ends),
        np.concatenate([np.empty(0, int), *lengths]),
    )


Block = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]
"""Postings of some passages by number of the term, in order of arrival: starts, passages, counts; and the lengths."""


def _block(texts: Sequence[str], numbers: _Numbers) -> Block:
    """Counted by a change of the order of a sparse matrix, which takes time linear in the words."""
    from scipy.sparse import csr_matrix

    ids, ends = array("i"), [0]
    for text in texts:
        ids.extend(map(numbers.__getitem__, words(text)))
        ends.append(len(ids))
    shape = (len(texts), len(numbers.terms))
    found = csr_matrix((np.ones(len(ids), np.int32), np.array(ids, np.int32), ends), shape=shape).tocsc()
    found.sum_duplicates()
    return found.indptr.astype(np.int64), found.indices, found.data, np.diff(ends)


def _together(
    blocks: list[Block], order: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Passages and counts of all blocks, let go one by one; `order` are the terms' numbers by the alphabet."""
    passages, counts = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.int32)
    place, first = np.empty(len(order), np.int64), 0
    place[order] = ends[:-1]
    blocks.reverse()
    while blocks:
        starts, inside, found, lengths = blocks.pop()
        sizes = np.diff(starts)
        here = np.repeat(place[: len(sizes)] - starts[:-1], sizes) + np.arange(len(inside))
        passages[here], counts[here] = inside + first, found
        place[: len(sizes)] += sizes
        first += len(lengths)
    return passages, counts


@dataclass(frozen=True)
class Terms:
    """In how many passages of a set each term occurs."""

    store: Store
    manifest: Manifest
    stemmer: str

    @property
    def num_passages(self) -> int:
        """Passages of the set."""
        return int(self.manifest.provenance["passages"])

    @property
    def mean_length(self) -> float:
        """Mean number of terms of a passage."""
        return float(self.manifest.tokens / self.num_passages)

    def counts(self, terms: pa.Array) -> NDArray[np.int64]:
        """Number of passages that hold each term; 0 where none does."""
        table = open_part(self.store, self.manifest, 0)
        return table["count"].take(pc.index_in(terms, value_set=table["term"])).fill_null(0).to_numpy()

    def idf(self, texts: Sequence[str]) -> list[float | None]:
        """Rarity of each word or phrase: the idf of its rarest word; None where the passages hold none of its words."""
        lists = [terms_of(text, self.stemmer) for text in texts]
        counts = self.counts(pa.array([term for terms in lists for term in terms], pa.string()))
        ends = np.cumsum([0, *map(len, lists)])
        held = [counts[start:end][counts[start:end] > 0] for start, end in pairwise(ends)]
        return [float(idf(part, self.num_passages).max()) if len(part) else None for part in held]


def idf(counts: NDArray[np.int64], num_passages: int) -> NDArray[np.float64]:
    """Inverse document frequency as Lucene has it: ln(1 + (N - n + 1/2) / (n + 1/2)), never negative."""
    return np.log1p((num_passages - counts + 0.5) / (counts + 0.5))


def prepare(shelf: Shelf, stemmer: str, shards: int) -> Terms:
    """The counts of the set: taken from the store, or made on Ray and committed."""
    known = Manifest.take(shelf.store, _folder(shelf, stemmer))
    return Terms(shelf.store, known, stemmer) if known else count(shelf, stemmer, shards)[0]


def count(shelf: Shelf, stemmer: str, shards: int) -> tuple[Terms, list[Any]]:
    """The counts of the set, committed, and for each shard a Ray reference to its postings."""
    import ray

    task: Any = ray.remote(num_cpus=1, num_returns=3, scheduling_strategy=ANYWHERE)(_count)
    found = [task.remote(shelf, start, stop, stemmer) for start, stop in bounds(len(shelf), shards)]
    tables, lengths = (ray.get([refs[place] for refs in found]) for place in (0, 1))
    merged = pa.concat_tables(tables).group_by("term").aggregate([("count", "sum")])
    table = merged.rename_columns(["term", "count"]).sort_by("term").combine_chunks()
    content = arrow_bytes(table)
    folder = _folder(shelf, stemmer)
    shelf.store.write_bytes(f"{folder}/terms.arrow", content)
    sha256 = hashlib.sha256(content).hexdigest()
    part = Part(name="terms.arrow", rows=table.num_rows, tokens=sum(lengths), targets=0, sha256=sha256)
    provenance = {"passages": len(shelf), "knowledge": shelf.manifest.digest, "stemmer": stemmer}
    manifest = Manifest(digest=folder.rpartition("/")[2], folder=folder, parts=(part,), provenance=provenance)
    manifest.commit(shelf.store)
    return Terms(shelf.store, manifest, stemmer), [refs[2] for refs in found]


def _folder(shelf: Shelf, stemmer: str) -> str:
    return f"terms/{digest([VERSION, shelf.manifest.digest, stemmer])}"


def _count(shelf: Shelf, start: int, stop: int, stemmer: str) -> tuple[pa.Table, int, Postings]:
    slices = (shelf.texts(first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK))
    found = post(chain.from_iterable(slices), stemmer)
    table = pa.table({"term": found.vocabulary, "count": np.diff(found.starts)})
    return table, int(found.lengths.sum()), found
