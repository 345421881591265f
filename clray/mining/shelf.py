"""The passages of a committed set, read by number or digest from memory-mapped files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clray.data.manifest import Manifest
from clray.errors import StorageError
from clray.lineage.store import Store


@dataclass(frozen=True)
class Passage:
    """A readable piece of a document: its digest, the title of the document ("" where it has none), and the text."""

    digest: str
    title: str
    text: str
    num_tokens: int


@dataclass(frozen=True)
class Shelf:
    """The passages of a set. Their numbers follow their digests, over all parts."""

    store: Store
    manifest: Manifest

    def __len__(self) -> int:
        return self.manifest.rows

    def texts(self, start: int, stop: int) -> list[str]:
        """What is searched of the passages `start` to `stop`: title and text."""
        return [f"{title}\n{text}" if title else text for title, text in self._rows(start, stop)]

    def _rows(self, start: int, stop: int) -> Iterable[tuple[str, str]]:
        for number, first in enumerate(self._starts):
            inside = slice(max(0, start - first), max(0, min(stop - first, self.manifest.parts[number].rows)))
            if inside.start < inside.stop:
                part = open_part(self.store, self.manifest, number)[inside]
                yield from zip(part["title"].to_pylist(), part["text"].to_pylist(), strict=True)

    def digests(self, numbers: NDArray[np.int64]) -> list[str]:
        """Digest of the passage of each number."""
        parts = np.searchsorted(self._starts, numbers, side="right") - 1
        found = np.empty(len(numbers), dtype=object)
        for number in np.unique(parts):
            here = parts == number
            column = open_part(self.store, self.manifest, int(number))["digest"]
            found[here] = column.take(pa.array(numbers[here] - self._starts[number])).to_pylist()
        return [str(mark) for mark in found]

    def passages(self, digests: Sequence[str]) -> list[Passage]:
        """The passages of those digests, in order; StorageError where the set has no such passage."""
        known: dict[str, Passage] = {}
        wanted = pa.array(sorted(set(digests)), pa.string())
        for number in range(len(self.manifest.parts)):
            part = open_part(self.store, self.manifest, number)
            places = pc.index_in(wanted, value_set=part["digest"]).drop_null()
            for row in part.take(places).to_pylist():
                known[row["digest"]] = Passage(
                    **{name: row[name] for name in ("digest", "title", "text", "num_tokens")}
                )
        lost = [mark for mark in digests if mark not in known]
        if lost:
            raise StorageError(
                f"{self.manifest.folder} holds no passage {lost[0]}: what names it was made from other knowledge. "
                "Search this knowledge afresh."
            )
        return [known[mark] for mark in digests]

    @functools.cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(part.rows for part in self.manifest.parts[:-1])], dtype=np.int64)


def open_part(store: Store, manifest: Manifest, number: int) -> pa.Table:
    """The rows of one part, memory-mapped. What lies in it was checked when the set was taken."""
    return _mapped(str(store.fetch(manifest.folder) / manifest.parts[number].name), manifest.parts[number].sha256)


@functools.lru_cache(maxsize=64)
def _mapped(path: str, sha256: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(path)).read_all()
