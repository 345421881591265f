"""The Python API, in the same words as the commands. A notebook needs no command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.outcome import Outcome
from clray.planner import make_plan
from clray.spec.stream import Stream
from clray.spec.sweep import Sweep
from clray.summary import Summary, summarise

if TYPE_CHECKING:
    from clray.search.result import SweepResult


def plan(stream: Stream) -> Summary:
    """What the stream comes to: tokens, steps, cost, cached or to build. Trains nothing."""
    return summarise(make_plan(stream))


def run(stream: Stream) -> Outcome:
    """The outcome of running the stream: generations, score matrices, metrics. Takes what is there already."""
    from clray.conductor import run as conduct
    from clray.console import Live

    with Live() as live:
        return conduct(stream, live)


def evaluate(stream: Stream) -> Outcome:
    """The outcome of measuring the generations that are there. Trains nothing."""
    from clray.conductor import evaluate as measure
    from clray.console import Live

    with Live() as live:
        return measure(stream, live)


def sweep(sweep: Sweep) -> SweepResult:
    """The result of the sweep: its trials, the best first. Run again, it goes on where it stopped."""
    from clray.console_sweep import SweepTable
    from clray.search.driver import run as search

    with SweepTable() as table:
        return search(sweep, table)


def generations(storage: str) -> list[Generation]:
    """All generations of the storage path, oldest first."""
    return list(Store(storage).generations())


def model(storage: str, generation: Generation | str) -> tuple[Any, Any]:
    """The generation's `(model, tokenizer)`: adapters merged, on the CPU, ready for `generate`."""
    from clray.models.loading import load_model, load_tokenizer, tokenizer_digest

    store = Store(storage)
    key = generation if isinstance(generation, str) else generation.key
    return load_model(store, key).eval(), load_tokenizer(store, tokenizer_digest(store, key))
