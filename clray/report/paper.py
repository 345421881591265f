"""The continual pre-training benchmark for a paper: its tables as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from clray.evaluation.transfer import COLUMNS, Transfer
from clray.report.numbers import MINUS, Unit

HEADS = tuple(name.upper() for name in COLUMNS)
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        **{char: f"\\{char}" for char in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Run:
    """The benchmark of one seed: the base model by its size, the order of its domains, and what came out."""

    base: str
    order: str
    transfer: Transfer


@dataclass(frozen=True)
class OverSeeds:
    """Mean and sample standard deviation of one column's medians over seeds; `domains` the fewest that a median has.

    The deviation is None with one seed, and both are None with none.
    """

    mean: float | None
    deviation: float | None
    domains: int


@dataclass(frozen=True)
class Row:
    """One base and order in the table of sizes and orders: `cells` in the order of COLUMNS."""

    base: str
    order: str
    num_seeds: int
    num_domains: int
    cells: tuple[OverSeeds, ...]


def domains_csv(transfer: Transfer) -> str:
    """A line for each domain: number and name of its stage, domain, and COLUMNS; empty where not measured."""
    rows = [
        [domain.learned, domain.stage, domain.task, *(_exact(getattr(domain, name)) for name in COLUMNS)]
        for domain in transfer.domains
    ]
    return _csv(["number", "stage", "domain", *COLUMNS], rows)


def domains_latex(transfer: Transfer) -> str:
    """The per-domain table, in the order of the stages, with median and quartiles below."""
    unit = Unit(transfer.metric)
    wins, compared = transfer.beats_expert
    rows = [
        [str(domain.learned), escaped(domain.task), *(_number(unit, n, getattr(domain, n)) for n in COLUMNS)]
        for domain in transfer.domains
    ]
    feet = [
        ["", title, *(_number(unit, n, getattr(transfer.medians[n], end, None)) for n in COLUMNS)]
        for title, end in (("Median", "median"), ("Lower quartile", "low"), ("Upper quartile", "high"))
    ]
    return _tabular(
        [f"{unit.label}, lower is better; CPT below DAPT on {wins} of {compared} domains"],
        "rl",
        ["Stage", "Domain", *HEADS],
        [rows, feet],
    )


def orders_csv(runs: Iterable[Run]) -> str:
    """A line for each base and order: medians over domains, as mean and sample standard deviation over seeds."""
    heads = [f"{name}_{what}" for name in COLUMNS for what in ("mean", "sd", "domains")]
    rows = [
        [row.base, row.order, row.num_seeds]
        + [entry for c in row.cells for entry in (_exact(c.mean), _exact(c.deviation), c.domains)]
        for row in size_by_order(runs)
    ]
    return _csv(["base", "order", "seeds", *heads], rows)


def orders_latex(runs: Sequence[Run]) -> str:
    """The table of sizes and orders: medians over domains, mean ± sample standard deviation over seeds.

    A comment above it names each median that stands on fewer domains than its row has.
    """
    rows = size_by_order(runs)
    unit = Unit(runs[0].transfer.metric)
    bases = list(dict.fromkeys(row.base for row in rows))
    groups = [
        [_order_row(unit, row, n == 0) for n, row in enumerate(r for r in rows if r.base == base)] for base in bases
    ]
    short = [
        f"{head} over {cell.domains} of {row.num_domains} domains: {row.base}, {row.order}"
        for row in rows
        for head, cell in zip(HEADS, row.cells, strict=True)
        if cell.domains < row.num_domains
    ]
    what = f"{unit.label}, lower is better; medians over domains, mean and sample standard deviation over seeds"
    return _tabular([what, *short], "llr", ["Base", "Order", "Seeds", *HEADS], groups)


def size_by_order(runs: Iterable[Run]) -> list[Row]:
    """A row for each base and order, bases together, in the order in which they come.

    Raises ValueError where there is no run, or where they are measured in several units.
    """
    found = list(runs)
    units = sorted({run.transfer.metric for run in found})
    if len(units) != 1:
        raise ValueError(f"a table of runs holds one unit of score, these have {len(units)}: {', '.join(units)}")
    bases = {base: n for n, base in enumerate(dict.fromkeys(run.base for run in found))}
    kinds = sorted(dict.fromkeys((run.base, run.order) for run in found), key=lambda kind: bases[kind[0]])
    return [_row(*kind, [run.transfer for run in found if (run.base, run.order) == kind]) for kind in kinds]


def escaped(text: str) -> str:
    """The text on one line, with what LaTeX would read as commands written out."""
    return " ".join(text.split()).translate(SPECIAL)


def _row(base: str, order: str, seeds: list[Transfer]) -> Row:
    cells = tuple(_over_seeds(seeds, name) for name in COLUMNS)
    return Row(base, order, len(seeds), max(len(transfer.domains) for transfer in seeds), cells)


def _over_seeds(seeds: list[Transfer], name: str) -> OverSeeds:
    medians = [transfer.medians[name] for transfer in seeds]
    values = [spread.median for spread in medians if spread is not None]
    return OverSeeds(
        mean=fmean(values) if values else None,
        deviation=stdev(values) if len(values) > 1 else None,
        domains=min(spread.count if spread else 0 for spread in medians),
    )


def _order_row(unit: Unit, row: Row, is_first: bool) -> list[str]:
    cells = [_number(unit, name, c.mean, c.deviation) for name, c in zip(COLUMNS, row.cells, strict=True)]
    return [escaped(row.base) if is_first else "", escaped(row.order), str(row.num_seeds), *cells]


def _number(unit: Unit, column: str, value: float | None, deviation: float | None = None) -> str:
    """A number in LaTeX; forgetting has its sign, and a dash stands where there is none."""
    if value is None:
        return "--"
    text = (unit.signed if column == "fg" else unit.show)(value).replace(MINUS, "-")
    if deviation is not None:
        return rf"${text} \pm {unit.show(deviation)}$"
    return f"${text}$" if text[0] in "+-" else text


def _tabular(notes: list[str], left: str, heads: list[str], groups: list[list[list[str]]]) -> str:
    """A booktabs table: `notes` as comments above, a rule between groups of rows."""
    lines = [*(f"% {' '.join(note.split())}" for note in notes)]
    lines += [rf"\begin{{tabular}}{{{left}{'r' * len(COLUMNS)}}}", r"\toprule", _line(heads)]
    for group in groups:
        lines += [r"\midrule", *map(_line, group)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells).lstrip() + r" \\"


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def _csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()
