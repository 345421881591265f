"""The page of a benchmark: one row for each setting of its grid, seeds taken together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.transfer import Transfer, transfers
from clray.report import figures
from clray.report import transfer_figures as between
from clray.report.numbers import MINUS, NOTHING, Unit, duration, finite
from clray.report.page import read, templates
from clray.report.paper import HEADS, Row, Run, size_by_order
from clray.report.summary import MEASURES, OTHERS
from clray.report.transfer import Measured
from clray.report.view import Line, View

TITLES = {**{measure.key: measure.title for measure in MEASURES}, **{key: title for key, (title, _) in OTHERS.items()}}


@dataclass(frozen=True)
class Table:
    """Metrics of one unit: a row for each setting and line, mean and sample standard deviation over seeds."""

    unit: Unit
    heads: list[str]
    rows: list[tuple[str, str, int, list[str]]]


@dataclass(frozen=True)
class Medians:
    """The table of sizes and orders of one unit: medians over domains; backward and forward transfer behind them."""

    unit: Unit
    rows: list[tuple[Row, list[str]]]
    heads: tuple[str, ...] = (*HEADS, "CPT < DAPT", "backward, %", "forward, %")


def render(benchmark: dict[str, Any]) -> str:
    """The page as HTML text; `benchmark` as `clray.benchmark.Benchmark.to_dict` gives it."""
    parts = benchmark["combinations"]
    found = _first_seeds(parts)
    return (
        templates()
        .get_template("benchmark.html")
        .render(
            stream=benchmark["stream"],
            created=benchmark["created"],
            seconds=duration(benchmark["seconds"] or None),
            style=Markup(read("style.css")),
            tables=tables(parts),
            medians=medians(parts),
            view=View([one.line for one in found]) if found else None,
            distances=between.distance_panels(found),
            learning=between.learning_panels(found),
            frame=figures,
            combinations=parts,
        )
    )


def tables(parts: Sequence[dict[str, Any]]) -> list[Table]:
    """Continual metrics of all lines, by unit of score."""
    values: dict[str, dict[tuple[str, str], dict[str, list[float]]]] = defaultdict(dict)
    for part in parts:
        for line in part["outcome"]["lines"]:
            for metric, numbers in line["metrics"].items():
                row = values[metric].setdefault((part["group"], line["name"]), defaultdict(list))
                for name, number in numbers.items():
                    if finite(number) is not None:
                        row[name].append(float(number))
    return [_table(Unit(metric), rows) for metric, rows in values.items()]


def medians(parts: Sequence[dict[str, Any]]) -> list[Medians]:
    """The tables of sizes and orders, by unit; none where no stream pretrains on domains."""
    by_unit: dict[str, list[Run]] = defaultdict(list)
    for part in parts:
        for transfer in _transfers(part):
            by_unit[transfer.metric].append(Run("", part["group"], transfer))
    return [_medians(Unit(metric), runs) for metric, runs in by_unit.items()]


def spread(values: Sequence[float], unit: Unit, signed: bool = False) -> str:
    """Mean and sample standard deviation, as the unit is shown; a dash without values."""
    if not values:
        return NOTHING
    mean = (unit.signed if signed else unit.show)(fmean(values)).replace("-", MINUS)
    return mean if len(values) < 2 else f"{mean} ± {unit.show(stdev(values))}"


def _table(unit: Unit, rows: dict[tuple[str, str], dict[str, list[float]]]) -> Table:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return Table(
        unit,
        [TITLES.get(name, name.replace("_", " ")) for name in names],
        [
            (group, line, max(map(len, row.values())), [spread(row.get(name, []), unit) for name in names])
            for (group, line), row in rows.items()
        ],
    )


def _medians(unit: Unit, runs: list[Run]) -> Medians:
    share = Unit("share")
    rows = []
    for row in size_by_order(runs):
        mine = [run.transfer for run in runs if run.order == row.order]
        sides = ([t.backward for t in mine if t.backward], [t.forward for t in mine if t.forward])
        moved = [spread([side.median for side in found], share, signed=True) for found in sides]
        texts = [
            NOTHING
            if cell.mean is None
            else unit.show(cell.mean) + (f" ± {unit.show(cell.deviation)}" if cell.deviation is not None else "")
            for cell in row.cells
        ]
        wins = [t.beats_expert for t in mine]
        beaten = (
            f"{sum(won for won, _ in wins)} of {sum(of for _, of in wins)}" if sum(of for _, of in wins) else NOTHING
        )
        rows.append((row, [*texts, beaten, *moved]))
    return Medians(unit, rows)


def _transfers(part: dict[str, Any]) -> tuple[Transfer, ...]:
    line = part["outcome"]["lines"][0]
    return transfers(ScoreMatrix.from_dict(line["matrix"]), part["outcome"].get("experts") or {})


def _first_seeds(parts: Sequence[dict[str, Any]]) -> list[Measured]:
    """The stream of each group's first combination, for the curves."""
    first = {part["group"]: part for part in reversed(parts)}
    groups = list(dict.fromkeys(part["group"] for part in parts))
    fields = ("matrix", "metrics", "generations")
    return [
        Measured(
            Line(number, name=group, **{f: first[group]["outcome"]["lines"][0][f] for f in fields}),
            Unit(transfer.metric),
            transfer,
        )
        for number, group in enumerate(groups)
        for transfer in _transfers(first[group])
    ]
