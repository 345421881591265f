"""What a sweep ended in: the table of its trials, the best of them, and the streams that are made of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import yaml

from clray.report import sweep as page
from clray.search import objectives, ordering
from clray.search.journal import COMPLETE, FAILED, RUNNING, STOPPED, Entry, Journal
from clray.search.planning import SweepPlan
from clray.search.proposing import score_of
from clray.search.space import default_of, described, stream_of
from clray.spec import loading, sweep_loading

SEEDS = (0, 1, 2)
"""Seeds over which the best stream is compared with the default on test."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The trials, each at the last rung it came to, the best first: complete ones in order of rank, then those that
    were stopped, failed, or are not finished."""

    plan: SweepPlan
    entries: tuple[Entry, ...]
    scores: tuple[objectives.Score | None, ...]
    trainings: ordering.Trainings
    created: str
    seconds: float

    @classmethod
    def of(
        cls, plan: SweepPlan, journal: Journal, before: Collection[str], created: str, seconds: float
    ) -> SweepResult:
        """The result of the journal; `before` are the generations that were there when the sweep was begun."""
        entries = ranked(plan, journal)
        last = len(plan.sweep.shares) - 1
        scores = tuple(score_of(plan.sweep, entry) if entry.rung == last else None for entry in entries)
        chains = [tuple(e.last["keys"]) for e in journal.entries.values() if e.reports]
        return cls(
            plan=plan,
            entries=tuple(entries),
            scores=scores,
            trainings=ordering.trainings(chains, before),
            created=created,
            seconds=seconds,
        )

    @property
    def best(self) -> Entry | None:
        """The best trial; None where none is complete or none keeps the constraints."""
        first = self.scores[0] if self.scores else None
        return self.entries[0] if first is not None and first.kept else None

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return len(self.entries) == self.plan.count and all(entry.ended for entry in self.entries)

    @property
    def folder(self) -> str:
        """Where page, table and streams lie."""
        return self.plan.store.path(self.plan.folder)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: what the page, the terminal and `--json` show."""
        sweep = self.plan.sweep
        best = self.best
        return {
            "sweep": {
                "name": sweep.name,
                "description": sweep.description,
                "spec_yaml": sweep_loading.to_yaml(sweep),
                "objectives": [{"text": o.text, "maximise": o.sign > 0} for o in sweep.objectives],
                "constraints": list(sweep.constraints),
            },
            "created": self.created,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "trainings": {
                "alone": self.trainings.alone,
                "needed": self.trainings.needed,
                "saved": self.trainings.saved,
                "now": self.trainings.left,
            },
            "fields": list(sweep.space),
            "trials": [self._trial(entry, score) for entry, score in zip(self.entries, self.scores, strict=True)],
            "best": None if best is None else best.number,
            "best_yaml": "" if best is None else self.best_yaml(best),
        }

    def publish(self) -> None:
        """Writes page, table and the streams that are made of the best trial."""
        store, folder, values = self.plan.store, self.plan.folder, self.to_dict()
        store.write_bytes(f"{folder}/sweep.html", page.render(values).encode())
        store.write_bytes(f"{folder}/sweep.json", json.dumps(values, ensure_ascii=False, indent=1).encode())
        store.write_bytes(f"{folder}/sweep.yaml", values["sweep"]["spec_yaml"].encode())
        if self.best is not None:
            store.write_bytes(f"{folder}/best.yaml", values["best_yaml"].encode())
        if self.best is not None and self.plan.sweep.stream.tasks:
            store.write_bytes(f"{folder}/on_test.yaml", self.on_test_yaml(self.best).encode())

    def best_yaml(self, best: Entry) -> str:
        """The best trial's stream, with the sweep's tasks: `clray run` of it finds everything in the store."""
        return loading.to_yaml(stream_of(self.plan.sweep, best.settings))

    def on_test_yaml(self, best: Entry) -> str:
        """The best trial's stream on the stream's own tasks, beside the stream as it was, over several seeds: for
        `clray benchmark`."""
        value = loading.dump(stream_of(self.plan.sweep, best.settings))
        value["tasks"] = loading.dump(self.plan.sweep.stream)["tasks"]
        value["controls"] = {"default": default_of(self.plan.sweep)}
        value["grid"] = {"seed": list(SEEDS)}
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)

    def _trial(self, entry: Entry, score: objectives.Score | None) -> dict[str, Any]:
        last = entry.reports[-1] if entry.reports else {}
        return {
            "number": entry.number,
            "settings": entry.settings,
            "described": described(entry.settings),
            "status": entry.status,
            "why": entry.why,
            "share": self.plan.sweep.shares[entry.rung],
            "stage": last.get("stage", 0),
            "of": last.get("of", 0),
            "values": None if score is None else list(score.values),
            "kept": None if score is None else score.kept,
            "excesses": None if score is None else list(score.excesses),
            "metrics": last.get("metrics", {}),
            "costs": last.get("costs", {}),
            "keys": last.get("keys", []),
        }


def ranked(plan: SweepPlan, journal: Journal) -> list[Entry]:
    """The trials, each at the last rung it came to, in the order of the table."""
    latest = {number: entry for (_, number), entry in sorted(journal.entries.items())}
    last = len(plan.sweep.shares) - 1
    order = {COMPLETE: 0, STOPPED: 1, RUNNING: 2, FAILED: 3}
    whole = [e for e in latest.values() if e.status == COMPLETE and e.rung == last]
    scores = [score for entry in whole if (score := score_of(plan.sweep, entry)) is not None]
    places = objectives.ranking(scores, [objective.sign for objective in plan.sweep.objectives])
    others = [e for e in latest.values() if not (e.status == COMPLETE and e.rung == last)]
    others.sort(key=lambda e: (order[e.status], -e.rung, -e.stage, e.number))
    return [*(whole[place] for place in places), *others]
