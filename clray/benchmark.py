"""A stream for each combination of its grid: base models, orders, seeds. One conductor underneath."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clray import conductor
from clray.conductor import Watcher
from clray.errors import SpecError
from clray.outcome import Outcome
from clray.planner import make_plan
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


@dataclass(frozen=True)
class Benchmark:
    """The outcomes of all combinations, in the order of the grid."""

    stream: Stream
    combinations: tuple[Combination, ...]
    outcomes: tuple[Outcome, ...]


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
    for combination in found:
        make_plan(combination.stream)
    outcomes = []
    for number, combination in enumerate(found, 1):
        tell(f"{number} of {len(found)}: {describe(combination.settings)}")
        outcomes.append(conductor.run(combination.stream, watch, label=combination.label))
    return Benchmark(stream, found, tuple(outcomes))


def describe(settings: dict[str, Any]) -> str:
    """The settings in one line."""
    return ", ".join(f"{field.rpartition('.')[2]} {short(value)}" for field, value in settings.items())


def short(value: Any) -> str:
    """A setting for people: a path by its last part, others as they are written."""
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _combination(value: dict[str, Any], settings: dict[str, Any], name: str) -> Combination:
    for field, setting in settings.items():
        value = loading.assign(value, field, setting)
    return Combination(settings, loading.validate(value, f"{describe(settings)} of the grid of stream '{name}'"))
