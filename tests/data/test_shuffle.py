"""Rows come together by their part, in the order in which they were given, whoever wrote them."""

import time

import pyarrow as pa
import pytest

from clray.data import shuffle
from clray.errors import DataError
from clray.lineage.store import Store


def table(*rows):
    """A table of value and part."""
    return pa.table({"value": [value for value, _ in rows], "part": pa.array([part for _, part in rows], pa.int32())})


def test_a_block_has_a_batch_a_part_in_the_order_of_the_rows():
    block = pa.ipc.open_file(shuffle._block(table(("a", 2), ("b", 0), ("c", 2), ("d", 0)), num_parts=4))
    assert [block.get_batch(part).to_pydict()["value"] for part in range(4)] == [["b", "d"], [], ["a", "c"], []]


def test_small_tables_are_joined_and_none_is_lost(monkeypatch):
    tables = [table((str(n), 0)) for n in range(7)]
    monkeypatch.setattr(shuffle, "BYTES_PER_BLOCK", 3 * tables[0].nbytes)
    assert [joined.num_rows for joined in shuffle._joined(iter(tables))] == [3, 3, 1]
    assert list(shuffle._joined(iter([]))) == []


UNITS = [[("a", 1), ("b", 0)], [("c", 3), ("d", 1)], [("e", 1)]]


@pytest.mark.ray
def test_parts_come_in_order_with_the_rows_of_all_units(ray_cluster, tmp_path):
    store = Store(str(tmp_path / "store"))
    made = shuffle.by_part(
        len(UNITS),
        lambda unit: iter([table(row) for row in UNITS[unit]]),
        4,
        lambda part, rows: {"part": part, "values": rows["value"].to_pylist(), "columns": rows.column_names},
        store,
    )
    assert [(m["part"], m["values"]) for m in made] == [(0, ["b"]), (1, ["a", "d", "e"]), (3, ["c"])]
    assert made[0]["columns"] == ["value"] and store.list("scratch") == []


@pytest.mark.ray
def test_a_mistake_in_a_task_comes_out_as_itself_and_leaves_nothing(ray_cluster, tmp_path):
    store = Store(str(tmp_path / "store"))

    def rows_of(unit):
        yield table(*UNITS[unit])
        raise DataError("row 3: no text")

    with pytest.raises(DataError, match=r"^row 3: no text$"):
        shuffle.by_part(1, rows_of, 4, lambda part, rows: {}, store)
    assert store.list("scratch") == []


def test_blocks_of_a_driver_that_was_killed_are_removed_after_days(tmp_path):
    store = Store(str(tmp_path / "store"))
    names = [f"{int(time.time()) - age}-{age}" for age in (8 * 86400, 60)]
    for name in names:
        store.write_bytes(f"scratch/{name}/000000-000000.arrow", b"x")
    shuffle._sweep(store)
    assert store.list("scratch") == names[1:]
