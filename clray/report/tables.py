"""The tables: mixtures, what each generation cost, and its hyper-parameters with where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.numbers import NOTHING, duration, loss, setting, short_count, whole
from clray.report.view import Line, View


@dataclass(frozen=True)
class Share:
    """What one origin gives to a mixture."""

    stage: str
    is_own: bool
    colour: str
    percent: float
    rows: str
    tokens: str
    targets: str


@dataclass(frozen=True)
class Mixture:
    """What one generation was trained on."""

    index: int
    stage: str
    tokens: str
    replayed: float
    shares: list[Share]


@dataclass(frozen=True)
class Cost:
    """One row of the table of generations."""

    index: int
    stage: str
    colour: str
    kind: str
    key: str
    cells: list[str]
    digest: str
    is_reused: bool


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of one line's own generations: a row each, a column a generation."""

    line: Line
    stages: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


MOST_SHARES, LARGEST_SHARES = 1500, 5
"""Shares of a page that stand one by one; beyond, the largest replayed ones of each mixture, and the rest as one."""

COST_COLUMNS = ("steps", "tokens", "tokens/s", "time", "FLOPs", "loss first", "loss last")


def mixtures(view: View) -> list[tuple[Line, list[Mixture]]]:
    """For each line the mixtures of the generations that are its own."""
    found = []
    counts = [len(g.get("data", {}).get("origins") or ()) for _, own in view.own_generations for g in own]
    largest = LARGEST_SHARES if sum(counts) > MOST_SHARES else None
    for line, generations in view.own_generations:
        own = [_mixture(view, g, largest) for g in generations if g.get("data", {}).get("origins")]
        found += [(line, own)] if own else []
    return found


def costs(view: View) -> list[tuple[Line, list[Cost]]]:
    """For each line what the generations that are its own took."""
    return [(line, [_cost(view, g) for g in own]) for line, own in view.own_generations]


def settings(view: View) -> list[Settings]:
    """For each line the hyper-parameters of the generations that are its own."""
    tables = [_settings(line, [g for g in own if g.get("inheritance")]) for line, own in view.own_generations]
    return [table for table in tables if table.stages]


def _mixture(view: View, record: dict[str, Any], largest: int | None) -> Mixture:
    origins, own = record["data"]["origins"], record["stage_name"]
    total = sum(origin["tokens"] for origin in origins) or 1
    shares = [
        Share(
            stage=origin["stage"],
            is_own=origin["stage"] == own,
            colour=view.stage_colour(origin["stage"]),
            percent=round(100 * origin["tokens"] / total, 2),
            rows=whole(origin.get("rows")),
            tokens=whole(origin["tokens"]),
            targets=whole(origin.get("targets")),
        )
        for origin in sorted(_gathered(origins, own, largest), key=lambda origin: origin["stage"] != own)
    ]
    replayed = sum(share.percent for share in shares if not share.is_own)
    return Mixture(record["index"], own, short_count(total), replayed, shares)


def _gathered(origins: list[dict[str, Any]], own: str, largest: int | None) -> list[dict[str, Any]]:
    """The origins, of the replayed ones only the `largest` by tokens, in their order, and all others as one."""
    replayed = [origin for origin in origins if origin["stage"] != own]
    if largest is None or len(replayed) <= largest + 1:
        return origins
    kept = sorted(replayed, key=lambda origin: -origin["tokens"])[:largest]
    rest = [origin for origin in replayed if origin not in kept]
    sums = {name: sum(origin.get(name) or 0 for origin in rest) for name in ("rows", "tokens", "targets")}
    one = {"stage": f"{len(rest)} other stages", **sums}
    return [*(origin for origin in origins if origin["stage"] == own or origin in kept), one]


def _cost(view: View, record: dict[str, Any]) -> Cost:
    training = record.get("training", {})
    cells = [
        whole(training.get("steps")),
        short_count(training.get("tokens")),
        short_count(training.get("tokens_per_second")),
        duration(training.get("seconds")),
        short_count(training.get("flops")),
        loss(training.get("first_loss")),
        loss(training.get("last_loss")),
    ]
    return Cost(
        index=record["index"],
        stage=record["stage_name"],
        colour=view.stage_colour(record["stage_name"]),
        kind=record.get("stage", {}).get("kind", NOTHING),
        key=record["key"],
        cells=cells,
        digest=record.get("data", {}).get("digest", ""),
        is_reused=view.is_reused(record),
    )


def _settings(line: Line, generations: list[dict[str, Any]]) -> Settings:
    names = dict.fromkeys(name for g in generations for name in g["inheritance"])
    rows = []
    for name in names:
        pairs = [g["inheritance"].get(name, (None, "default")) for g in generations]
        rows.append((name, [(setting(value), str(origin)) for value, origin in pairs]))
    return Settings(line, [g["stage_name"] for g in generations], rows)


def environment_rows(environment: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The environment as name and value, nested names joined by dots."""
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        nested = isinstance(value, dict)
        rows += environment_rows(value, f"{prefix}{name}.") if nested else [(f"{prefix}{name}", setting(value))]
    return rows
