"""Rows of a data set brought together by their part, in memory that does not grow with the set.

Ray Data's own shuffle (`groupby`) keeps the whole set in its object store until that is full. Here the rows go through
files of the store: a task of the first pass writes what it reads as blocks, in which the rows of a part lie together;
a task of the second reads its part out of all blocks. So a task holds a block or a part, on any number of nodes.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from clray.lineage.store import Store

BYTES_PER_BLOCK = 1 << 24
KEPT_DAYS = 7
"""After so many days the blocks of a driver that was killed are removed by the next one."""

RowsOf = Callable[[int], Iterator[pa.Table]]
"""The rows of a reading unit, by its number, in small tables of one schema; `part` is the number of each row's part."""

Finish = Callable[[int, pa.Table], dict[str, Any]]
"""Takes a part's number and all its rows (without `part`); returns plain values for the caller."""


def by_part(num_units: int, rows_of: RowsOf, num_parts: int, finish: Finish, store: Store) -> list[dict[str, Any]]:
    """What `finish` made of each part that has rows, in order; both functions run in Ray tasks.

    Rows come to it in the order of the units, and of each as `rows_of` gives them.
    """
    from clray.ray_session import run_dataset

    _sweep(store)
    folder = f"scratch/{int(time.time())}-{uuid.uuid4().hex}"
    write = functools.partial(_write, rows_of=rows_of, num_parts=num_parts, store=store, folder=folder)
    try:
        blocks = [row["block"] for row in run_dataset(lambda data: _each(data, num_units, write))]
        read = functools.partial(_read, blocks=blocks, finish=finish, store=store)
        made = [json.loads(row["made"]) for row in run_dataset(lambda data: _each(data, num_parts, read))]
    finally:
        store.delete(folder)
    return [part for part in made if part is not None]


def _sweep(store: Store) -> None:
    for name in store.list("scratch"):
        if int(name.partition("-")[0]) < time.time() - KEPT_DAYS * 86400:
            store.delete(f"scratch/{name}")


def _each(data: Any, count: int, work: Callable[[pa.Table], Any]) -> Any:
    """The data set of `work` on each number below `count`, a task each."""
    numbers = data.from_items([{"number": number} for number in range(count)], override_num_blocks=count)
    return numbers.map_batches(work, batch_size=1, batch_format="pyarrow")


def _write(batch: pa.Table, rows_of: RowsOf, num_parts: int, store: Store, folder: str) -> Iterator[pa.Table]:
    """Writes the rows of a unit as blocks, and yields their names."""
    unit = batch["number"][0].as_py()
    for number, table in enumerate(_joined(rows_of(unit))):
        block = f"{folder}/{unit:06d}-{number:06d}.arrow"
        store.write_bytes(block, _block(table, num_parts))
        yield pa.table({"block": [block]})


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least BYTES_PER_BLOCK; the last may be smaller."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= BYTES_PER_BLOCK:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _block(table: pa.Table, num_parts: int) -> bytes:
    """An Arrow file of `num_parts` batches: the rows of each part, in the order of the table."""
    parts = table["part"].to_numpy()
    order = np.argsort(parts, kind="stable")
    rows = table.drop_columns(["part"]).take(pa.array(order)).combine_chunks()
    ends = np.searchsorted(parts[order], np.arange(num_parts + 1))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        for start, stop in itertools.pairwise(ends.tolist()):
            found = rows.slice(start, stop - start).to_batches()
            writer.write_batch(found[0] if found else pa.RecordBatch.from_pylist([], rows.schema))
    return bytes(sink.getvalue().to_pybytes())


def _read(batch: pa.Table, blocks: list[str], finish: Finish, store: Store) -> pa.Table:
    """What `finish` makes of a part, as JSON; null for a part without rows."""
    part = batch["number"][0].as_py()
    found = []
    for block in blocks:
        with store.fs.open_input_file(store.path(block)) as file:
            found.append(pa.ipc.open_file(file).get_batch(part))
    table = pa.Table.from_batches(found)
    return pa.table({"made": [json.dumps(finish(part, table) if table.num_rows else None)]})
