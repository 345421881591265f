"""What was once found out about a text: kept in the store under the digest of the text, never asked twice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from clray.data.manifest import arrow_bytes
from clray.lineage.key import digest
from clray.lineage.store import Store


class Book:
    """Lists of values by text, in files of a folder of the store, one file for each call that found some.

    `find` gives the values of texts that are not in the book, in order; `value` is the Arrow type of one of them.
    """

    def __init__(self, store: Store, folder: str, value: pa.DataType, find: Callable[[list[str]], Any]) -> None:
        self._store = store
        self._folder = folder
        self._type = pa.list_(value)
        self._find = find

    def of(self, texts: Sequence[str]) -> pa.ListArray:
        """The values of each text, in order; those that are new are found and kept."""
        marks = {text: digest(text) for text in texts}
        places = self._places()
        new = [text for text in sorted(marks) if marks[text] not in places]
        if new:
            table = pa.table({"text": [marks[text] for text in new], "value": pa.array(self._find(new), self._type)})
            self._write(table)
            places = self._places()
        return self._values().take(pa.array([places[marks[text]] for text in texts], pa.int64()))

    def _write(self, table: pa.Table) -> None:
        name = digest(table["text"].to_pylist())
        self._store.write_bytes(f"{self._folder}/{name}.arrow", arrow_bytes(table))

    def _places(self) -> dict[str, int]:
        return _read(self._store, self._folder, self._names())[0]

    def _values(self) -> pa.ListArray:
        values = _read(self._store, self._folder, self._names())[1]
        return pa.array([], self._type) if values is None else values

    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in self._store.list(self._folder) if name.endswith(".arrow"))


@functools.lru_cache(maxsize=8)
def _read(store: Store, folder: str, names: tuple[str, ...]) -> tuple[dict[str, int], Any]:
    """Place of each text's digest among the values of all files, and those values."""
    if not names:
        return {}, None
    tables = [pa.ipc.open_file(pa.BufferReader(store.read_bytes(f"{folder}/{name}"))).read_all() for name in names]
    table = pa.concat_tables(tables).combine_chunks()
    return {mark: place for place, mark in enumerate(table["text"].to_pylist())}, table["value"].combine_chunks()
