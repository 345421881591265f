"""A stream for each combination of its grid: base models, orders, seeds. One conductor underneath."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clray import conductor
from clray.conductor import Watcher
from clray.errors import SpecError
from clray.evaluation.transfer import transfers
from clray.lineage.clock import now
from clray.outcome import Outcome
from clray.planner import make_plan
from clray.report import benchmark as page
from clray.report.paper import Run, domains_csv, domains_latex, orders_csv, orders_latex
from clray.session import Session
from clray.spec import loading
from clray.spec.stream import Stream


@dataclass(frozen=True)
class Combination:
    """One point of the grid: its settings by dotted field, and the stream that they make."""

    settings: dict[str, Any]
    stream: Stream

    @property
    def label(self) -> str:
        """A name that a folder can have: the settings, joined."""
        return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", short(value)) for value in self.settings.values())

    @property
    def group(self) -> str:
        """What combinations that differ by seed alone have in common."""
        return describe({field: value for field, value in self.settings.items() if field != "seed"}) or "all seeds"

    @property
    def base(self) -> str:
        """The base model, by the last part of its path."""
        return short(self.stream.model.base)

    @property
    def rest(self) -> str:
        """The settings that are neither base model nor seed."""
        left = {field: value for field, value in self.settings.items() if field not in ("seed", "model.base")}
        return describe(left) if len(left) != 1 else short(next(iter(left.values())))


@dataclass(frozen=True)
class Benchmark:
    """The outcomes of all combinations, in the order of the grid."""

    stream: Stream
    combinations: tuple[Combination, ...]
    outcomes: tuple[Outcome, ...]
    created: str
    seconds: float

    @property
    def folder(self) -> str:
        """Where the page and the tables lie."""
        return self.outcomes[0].plan.store.path(f"reports/{self.stream.name}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: what the page and `--json` show."""
        return {
            "stream": {
                "name": self.stream.name,
                "description": self.stream.description,
                "spec_yaml": loading.to_yaml(self.stream),
            },
            "created": self.created,
            "seconds": round(self.seconds, 1),
            "combinations": [
                {
                    "label": combination.label,
                    "group": combination.group,
                    "described": describe(combination.settings),
                    "settings": combination.settings,
                    "outcome": outcome.to_dict(),
                }
                for combination, outcome in zip(self.combinations, self.outcomes, strict=True)
            ],
        }

    def publish(self) -> None:
        """Writes the page, and the tables of domains and of sizes and orders as CSV and LaTeX, beside the reports."""
        values = self.to_dict()
        store, folder = self.outcomes[0].plan.store, f"reports/{self.stream.name}"
        store.write_bytes(f"{folder}/benchmark.html", page.render(values).encode())
        store.write_bytes(f"{folder}/benchmark.json", json.dumps(values, ensure_ascii=False).encode())
        runs: dict[str, list[Run]] = defaultdict(list)
        for combination, outcome in zip(self.combinations, self.outcomes, strict=True):
            for transfer in transfers(outcome.matrix, outcome.experts):
                runs[transfer.metric].append(Run(combination.base, combination.rest, transfer))
                for kind, text in (("csv", domains_csv(transfer)), ("tex", domains_latex(transfer))):
                    store.write_bytes(f"{folder}/{combination.label}/domains-{transfer.metric}.{kind}", text.encode())
        for metric, found in runs.items():
            store.write_bytes(f"{folder}/orders-{metric}.csv", orders_csv(found).encode())
            store.write_bytes(f"{folder}/orders-{metric}.tex", orders_latex(found).encode())


def combinations(stream: Stream) -> tuple[Combination, ...]:
    """The grid multiplied out, its first field outermost. SpecError where it is empty or a value does not fit."""
    if not stream.grid:
        raise SpecError(
            f"stream '{stream.name}' has no grid to run over; give it one, say grid: {{order: [random, similar], seed: "
            "[0, 1, 2]}, or use clray run"
        )
    value = {name: setting for name, setting in loading.dump(stream).items() if name != "grid"}
    return tuple(
        _combination(value, dict(zip(stream.grid, chosen, strict=True)), stream.name)
        for chosen in itertools.product(*stream.grid.values())
    )


def run(stream: Stream, watch: Watcher, tell: Callable[[str], None]) -> Benchmark:
    """The outcome of each combination. All are planned before the first is trained, so that none fails late.

    What combinations share (a base model's experts, equal beginnings) is trained once; what is in the store is taken.
    """
    found = combinations(stream)
    plans = [make_plan(combination.stream) for combination in found]
    started, outcomes = time.monotonic(), []
    with Session(plans[0], watch.say) as session:
        for number, combination in enumerate(found, 1):
            tell(f"{number} of {len(found)}: {describe(combination.settings)}")
            outcomes.append(conductor.run(combination.stream, watch, label=combination.label, session=session))
    made = Benchmark(stream, found, tuple(outcomes), now(), time.monotonic() - started)
    made.publish()
    return made


def describe(settings: dict[str, Any]) -> str:
    """The settings in one line: words stand for themselves, numbers behind their field."""
    return ", ".join(
        short(value) if isinstance(value, str) else f"{field.rpartition('.')[2]} {short(value)}"
        for field, value in settings.items()
    )


def short(value: Any) -> str:
    """A setting for people: a path by its last part, others as they are written."""
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _combination(value: dict[str, Any], settings: dict[str, Any], name: str) -> Combination:
    for field, setting in settings.items():
        value = loading.assign(value, field, setting)
    return Combination(settings, loading.validate(value, f"{describe(settings)} of the grid of stream '{name}'"))
