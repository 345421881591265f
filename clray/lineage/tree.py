"""The lineage of a store, with what the ledger knows of each generation."""

from __future__ import annotations

from typing import Any

from clray.lineage import verdicts
from clray.lineage.generation import Generation
from clray.lineage.ledger import Ledger, default_tracking
from clray.lineage.store import Store
from clray.spec.stream import Stream


def lineage_rows(stream: Stream) -> list[tuple[Generation, dict[str, Any]]]:
    """Each generation of the stream's store with its version, aliases, scores and status at gates, oldest first."""
    store = Store(stream.storage)
    ledger = Ledger(stream.tracking or default_tracking(store), stream.name)
    ledger.check()
    facts = {row["key"]: row for row in ledger.generations()}
    return [
        (made, {**_facts(facts.get(made.key, {}), stream), "gate": verdicts.status(store, made.key)})
        for made in store.generations()
    ]


def _facts(row: dict[str, Any], stream: Stream) -> dict[str, Any]:
    """Version, aliases, run, and the score of each of the stream's tasks."""
    measured = row.get("scores") or {}
    names = {task.name: f"{task.name}/{task.score}" for task in stream.tasks}
    scores = {task: measured[name] for task, name in names.items() if name in measured}
    return {**{name: row.get(name) for name in ("version", "aliases", "run_id")}, "scores": scores}
