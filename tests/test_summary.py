"""The printed plan: all of its columns where there is room, the most wanted on a narrow terminal."""

import pytest

from clray.summary import COLUMNS, Row, Summary

ROW = Row(
    line="stream",
    stage="economics",
    kind="instruct",
    key="0123456789abcdef",
    state="to build",
    rows=300,
    tokens=1_234_567,
    targets=12_345,
    steps=150,
    batch=4,
    replayed=0.125,
    flops=2.5e11,
    seconds=130.0,
    bytes_per_device=2.0**28,
    bytes_kept=1e6,
    notes=(),
)


@pytest.mark.parametrize("terminal", [False, True])
def test_no_cell_is_cut(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", "80")
    Summary(stream="s", rows=(ROW,), cells=2, missing_cells=1).show()
    said = capsys.readouterr().out.partition("└")[0]
    assert "…" not in said
    for column in COLUMNS:
        assert (column.of(ROW) in said) is not (terminal and column.wide), column.heading
