"""Which LoRA blocks a shared attention selects for which task: how often the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from clray.evaluation.matrix import ScoreMatrix
from clray.lineage.generation import Generation
from clray.models.stack_kinds import goes_on, is_stack


@dataclass(frozen=True, kw_only=True)
class Selection:
    """For each task (row) the mean weight of each block (column), and how often it is the heaviest.

    `own` is the column of the block that was trained on the task, None for a task that none was; `accuracy` the mean
    share of examples, over the tasks that have one, whose heaviest block is their own.
    """

    tasks: tuple[str, ...]
    blocks: tuple[str, ...]
    attention: tuple[tuple[float, ...], ...]
    heaviest: tuple[tuple[float, ...], ...]
    own: tuple[int | None, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of examples whose heaviest block is their task's own; None where no task has one."""
        shares = [row[own] for row, own in zip(self.heaviest, self.own, strict=True) if own is not None]
        return fmean(shares) if shares else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the report and `--json`."""
        return {**asdict(self), "accuracy": self.accuracy}


def selection_of(
    generations: Sequence[Generation], cells: Mapping[str, Mapping[str, Any]], matrix: ScoreMatrix
) -> Selection | None:
    """The selection of the last of the generations, from the scores (`cells`) of its tasks."""
    attended = {task: cell for task, cell in cells.items() if "attention" in cell}
    if not attended:
        return None
    blocks = blocks_of(generations)
    columns = {row: column for column, row in enumerate(blocks)}
    return Selection(
        tasks=tuple(attended),
        blocks=tuple(generations[row].stage_name for row in blocks),
        attention=tuple(tuple(cell["attention"]) for cell in attended.values()),
        heaviest=tuple(tuple(cell["heaviest"]) for cell in attended.values()),
        own=tuple(columns.get(matrix.learned_at[task] or -1) for task in attended),
    )


def blocks_of(generations: Sequence[Generation]) -> list[int]:
    """The generations of the chain whose stages trained the blocks of the last one, oldest first."""
    rows: list[int] = []
    for row in range(1, len(generations)):
        adapter, before = generations[row].adapter, generations[row - 1].adapter
        if not is_stack(adapter):
            rows = []
        elif adapter is not None and goes_on(before, adapter):
            rows.append(row)
        else:
            rows = [row]
    return rows
