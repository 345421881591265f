"""The continual pre-training benchmark in tables: medians of each line, and the domains behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.transfer import COLUMNS, Correlation, Domain, Quartiles, Transfer, quartiles, transfers
from clray.report.numbers import MINUS, NOTHING, Unit, whole
from clray.report.view import Line, View

FEWEST_STAGES = 3
SHARE = Unit("share")

MEDIAN_COLUMNS = (
    ("ZS", "zero-shot: the base model"),
    ("DAPT", "the base model trained on the domain alone"),
    ("CPT", "right after the domain's own stage"),
    ("LC", "the last generation"),
    ("FG", "forgetting: LC − CPT"),
    ("CPT < DAPT", "domains that the stream learns better than a model trained on them alone"),
    ("backward", "change against zero-shot, all generations after the domain's own"),
    ("forward", "change against zero-shot, all trained generations before the domain's own"),
    ("ρ", "loss of learning: rank correlation of the gain over DAPT with the number of the stage"),
)
DOMAIN_COLUMNS = (
    *MEDIAN_COLUMNS[:5],
    ("v. DAPT, %", "right after its stage against DAPT: (DAPT − CPT) / DAPT"),
    ("v. ZS, %", "the last generation against zero-shot: (ZS − LC) / ZS"),
)


@dataclass(frozen=True)
class Measured:
    """The benchmark of one line in one unit."""

    line: Line
    unit: Unit
    transfer: Transfer


@dataclass(frozen=True)
class Entry:
    """A number in a table, with its class and tooltip."""

    text: str
    judgement: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """The domains of one line; `feet` are the median and quartiles over them, and on how many these stand."""

    line: Line
    unit: Unit
    rows: list[tuple[Domain, list[Entry]]]
    feet: list[tuple[str, list[str]]]


def measured(view: View) -> list[Measured]:
    """The benchmark of each line that pretrains on several domains; nothing where the stream itself does not."""
    if not _is_benchmark(view.stream):
        return []
    return [
        Measured(line, Unit(transfer.metric), transfer)
        for line in view.lines
        if _is_benchmark(line)
        for transfer in transfers(ScoreMatrix.from_dict(line.matrix), view.experts)
    ]


def medians(found: Sequence[Measured]) -> list[tuple[Measured, list[Entry]]]:
    """The row of each line in the table of medians, in the order of MEDIAN_COLUMNS."""
    return [(one, _median_row(one.unit, one.transfer)) for one in found]


def tables(found: Sequence[Measured]) -> list[Table]:
    """The table of domains of each line, in the order of DOMAIN_COLUMNS."""
    return [
        Table(
            line=one.line,
            unit=one.unit,
            rows=[(domain, _entries(one.unit, domain)) for domain in one.transfer.domains],
            feet=_feet(one.unit, one.transfer),
        )
        for one in found
    ]


def percent(change: float | None) -> str:
    """A share as signed percent: 0.123 -> +12.3, -12.5 -> −1 250; a dash for None."""
    if change is None or abs(change) < 1:
        return SHARE.signed(change)
    return f"{MINUS if change < 0 else '+'}{whole(abs(100 * change))}"


def signed(value: float | None) -> str:
    """A correlation with its sign."""
    return NOTHING if value is None else f"{value:+.2f}".replace("-", MINUS)


def correlated(found: Correlation, what: str) -> str:
    """A rank correlation and what it stands on, in words."""
    return f"ρ = {signed(found.rho)}, {found.count} {what}"


def _is_benchmark(line: Line) -> bool:
    """Whether the line has at least FEWEST_STAGES pretrain stages that teach a task whose lower score is better."""
    pretrained = {g["index"] for g in line.generations if (g.get("stage") or {}).get("kind") == "pretrain"}
    return len(pretrained & {line.learned_at(task) for task in line.tasks if line.unit(task).lower}) >= FEWEST_STAGES


def _shows(unit: Unit) -> list[Callable[[Any], str]]:
    """How each of COLUMNS is shown."""
    return [unit.signed if name == "fg" else unit.show for name in COLUMNS]


def _median_row(unit: Unit, transfer: Transfer) -> list[Entry]:
    wins, compared = transfer.beats_expert
    spreads = zip((transfer.medians[name] for name in COLUMNS), _shows(unit), strict=True)
    return [
        *(_entry(spread, show, "domains") for spread, show in spreads),
        Entry(f"{wins} of {compared}" if compared else NOTHING),
        *(_entry(spread, _with_sign, "scores") for spread in (transfer.backward, transfer.forward)),
        Entry(signed(transfer.learning.rho), title=f"over {transfer.learning.count} domains"),
    ]


def _with_sign(change: float) -> str:
    return f"{percent(change)}%"


def _entry(spread: Quartiles | None, show: Callable[[Any], str], what: str) -> Entry:
    if spread is None:
        return Entry(NOTHING)
    title = f"quartiles {show(spread.low)} to {show(spread.high)}, over {spread.count} {what}"
    return Entry(show(spread.median), title=title)


def _entries(unit: Unit, domain: Domain) -> list[Entry]:
    numbers = [show(getattr(domain, name)) for name, show in zip(COLUMNS, _shows(unit), strict=True)]
    forgotten = "even" if domain.fg is None else unit.better(domain.fg)
    return [
        *(Entry(number, forgotten if name == "fg" else "") for name, number in zip(COLUMNS, numbers, strict=True)),
        *(Entry(percent(gain), _judgement(gain)) for gain in _gains(domain)),
    ]


def _gains(domain: Domain) -> tuple[float | None, float | None]:
    """CPT against DAPT, and the last generation against zero-shot."""
    return domain.gain, domain.change(len(domain.scores) - 1)


def _judgement(gain: float | None) -> str:
    return "even" if gain is None or not SHARE.rounded(gain) else "good" if gain > 0 else "bad"


def _feet(unit: Unit, transfer: Transfer) -> list[tuple[str, list[str]]]:
    gains = [quartiles(column) for column in zip(*map(_gains, transfer.domains), strict=True)]
    spreads = [*(transfer.medians[name] for name in COLUMNS), *gains]
    shows = [*_shows(unit), percent, percent]
    names = (("median", "median"), ("lower quartile", "low"), ("upper quartile", "high"))
    feet = [
        (title, [show(getattr(spread, name, None)) for spread, show in zip(spreads, shows, strict=True)])
        for title, name in names
    ]
    return [*feet, ("domains", [str(spread.count if spread else 0) for spread in spreads])]
