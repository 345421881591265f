"""The plan in numbers, for people and programs: what each stage comes to, and whether it is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clray.cost import saved_bytes
from clray.planned import Line, Plan, PlannedStage, generation_of
from clray.preparation import PreparedStage, prepare_stage
from clray.ray_session import connect
from clray.spec.recipe import describe


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage of one line. `state` is "cached", "to build", or "shared" with an earlier line; `bytes_kept` is what a
    generation that is to be built will take in the storage."""

    line: str
    stage: str
    kind: str
    key: str
    state: str
    rows: int
    tokens: int
    targets: int
    steps: int
    batch: int
    replayed: float
    flops: float
    seconds: float
    bytes_per_device: float
    bytes_kept: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column of the printed plan; a narrow terminal has no room for a `wide` one."""

    heading: str
    of: Callable[[Row], str]
    justify: Literal["left", "right"] = "left"
    wide: bool = False


COLUMNS = (
    Column("line", lambda row: row.line),
    Column("stage", lambda row: row.stage),
    Column("kind", lambda row: row.kind, wide=True),
    Column("state", lambda row: row.state),
    Column("generation", lambda row: row.key[:10]),
    Column("tokens", lambda row: f"{row.tokens:,}", "right"),
    Column("targets", lambda row: f"{row.targets:,}", "right", wide=True),
    Column("steps", lambda row: f"{row.steps:,}", "right"),
    Column("replayed", lambda row: f"{row.replayed:.1%}", "right", wide=True),
    Column("FLOPs", lambda row: f"{row.flops:.1e}", "right", wide=True),
    Column("time", lambda row: f"~{duration(row.seconds)}", "right"),
    Column("memory", lambda row: f"~{row.bytes_per_device / 2**30:.2f} GiB", "right", wide=True),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The plan in numbers."""

    stream: str
    rows: tuple[Row, ...]
    cells: int
    missing_cells: int

    @property
    def to_build(self) -> list[Row]:
        """Stages that a run would train."""
        return [row for row in self.rows if row.state == "to build"]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain values."""
        return {
            "stream": self.stream,
            "stages": [asdict(row) for row in self.rows],
            "cells": self.cells,
            "missing_cells": self.missing_cells,
            "to_build": len(self.to_build),
            **self.totals,
        }

    @property
    def totals(self) -> dict[str, float]:
        """What everything that is still to be built comes to."""
        build = self.to_build
        return {
            "tokens": sum(row.tokens for row in build),
            "flops": sum(row.flops for row in build),
            "seconds": sum(row.seconds for row in build),
            "bytes_kept": sum(row.bytes_kept for row in build),
        }

    def show(self) -> None:
        """Prints the numbers as a table; a narrow terminal shows fewer of them."""
        from rich.table import Table

        from clray import printing

        console = printing.stdout()
        table = Table(title=f"plan of {self.stream}", title_justify="left")
        columns = [one for one in COLUMNS if console.width >= printing.NARROW or not one.wide]
        for column in columns:
            table.add_column(column.heading, justify=column.justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(column.of(row) for column in columns))
        console.print(table)
        for row in self.rows:
            if row.notes:
                console.print(f"{row.line} · {row.stage}: {'; '.join(row.notes)}", markup=False, soft_wrap=True)
        build, totals = self.to_build, self.totals
        console.print(
            f"{len(build)} stage{'s' * (len(build) != 1)} to train: {totals['tokens']:,} tokens, {totals['flops']:.1e} "
            f"FLOPs, ~{duration(totals['seconds'])}, ~{totals['bytes_kept'] / 2**30:,.2f} GiB to keep; "
            f"{self.missing_cells:,} of {self.cells:,} scores to measure",
            markup=False,
        )


def summarise(plan: Plan) -> Summary:
    """The plan in numbers; prepares the data of stages that are not there yet, on Ray, and keeps it for the run."""
    if plan.missing:
        connect(plan.stream)
    missing, seen, rows = {stage.key for stage in plan.missing}, set(), []
    for line in plan.chains:
        for planned in line.stages:
            if planned.key in missing:
                prepared = prepare_stage(planned, plan.store, line)
                rows.append(_to_build(line, planned, prepared, "shared" if planned.key in seen else "to build"))
            else:
                rows.append(_cached(plan, line, planned))
            seen.add(planned.key)
    return Summary(
        stream=plan.stream.name,
        rows=tuple(rows),
        cells=len(plan.cells),
        missing_cells=len(plan.missing_cells),
    )


def _to_build(line: Line, planned: PlannedStage, prepared: PreparedStage, state: str) -> Row:
    origins = prepared.packed.provenance["origins"]
    return Row(
        line=line.name,
        stage=planned.stage.name,
        kind=planned.stage.kind,
        key=planned.key,
        state=state,
        rows=prepared.packed.rows,
        tokens=prepared.cost.tokens,
        targets=prepared.cost.targets,
        steps=prepared.batches.steps,
        batch=prepared.batches.size,
        replayed=_replayed(origins, planned.stage.name),
        flops=prepared.cost.flops,
        seconds=prepared.cost.seconds,
        bytes_per_device=prepared.cost.bytes_per_device,
        bytes_kept=saved_bytes(planned.shape, planned.recipe.resolved, planned.keeps_state).weights,
        notes=(*describe(planned.recipe, planned.parent_stage), *prepared.notes),
    )


def _cached(plan: Plan, line: Line, planned: PlannedStage) -> Row:
    generation = generation_of(plan, planned.key)
    data, training = generation.data, generation.training
    return Row(
        line=line.name,
        stage=planned.stage.name,
        kind=planned.stage.kind,
        key=planned.key,
        state="cached",
        rows=data["rows"],
        tokens=training["tokens"],
        targets=training["targets"],
        steps=training["steps"],
        batch=generation.stage["batch"],
        replayed=_replayed(data["origins"], planned.stage.name),
        flops=training["flops"],
        seconds=training["seconds"],
        bytes_per_device=training["bytes_per_device"],
        bytes_kept=0.0,
        notes=(),
    )


def _own(origins: list[dict[str, Any]], stage: str) -> int:
    """How many of the mixture's origins are of the stage itself: the first, and in a round one of each kind of row."""
    return max(1, sum(origin["stage"].startswith(f"{stage} ") for origin in origins))


def _replayed(origins: list[dict[str, Any]], stage: str) -> float:
    """Share of the mixture's tokens that come from earlier stages."""
    replayed = sum(origin["tokens"] for origin in origins[_own(origins, stage) :])
    return replayed / max(1, sum(origin["tokens"] for origin in origins))


def arithmetic(line: Line, prepared: PreparedStage) -> str:
    """One line of arithmetic, printed before a stage is trained."""
    origins, batches, cost = prepared.packed.provenance["origins"], prepared.batches, prepared.cost
    stage = prepared.planned.stage.name
    own = _own(origins, stage)
    replayed = ", ".join(f"{o['rows']} of {o['stage']}" for o in origins[own:] if o["rows"])
    return (
        f"{line.name} · {stage}: {sum(origin['rows'] for origin in origins[:own]):,} examples"
        + (f" + replayed {replayed}" if replayed else "")
        + f" -> {prepared.packed.rows:,} sequences, {batches.total:,} seen / batch {batches.size} = {batches.steps:,} "
        f"steps, {cost.tokens:,} tokens ({cost.targets:,} targets), {cost.flops:.1e} FLOPs, ~{duration(cost.seconds)}"
    )


def duration(seconds: float) -> str:
    """Seconds in words that fit: 42 s, 3.5 min, 2.1 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
