"""What a sweep writes to MLflow: by the driver alone, in a thread beside the trials, of trials that have ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from clray.errors import UserError
from clray.lineage.key import digest
from clray.lineage.mlflow_experiment import NOTE
from clray.lineage.mlflow_store import default_tracking
from clray.lineage.mlflow_values import Point
from clray.lineage.sweep_ledger import SweepLedger
from clray.search.journal import COMPLETE, STOPPED, Entry
from clray.search.planning import SweepPlan
from clray.search.proposing import score_of
from clray.search.result import SweepResult
from clray.search.space import described, stream_of
from clray.spec import loading, sweep_loading


class Bookkeeper:
    """The sweep's hand on the ledger. What fails is said, and written by the next run of the sweep; trials go on.

    StorageError where MLflow cannot be used at the start.
    """

    def __init__(self, plan: SweepPlan, say: Callable[[str], None]) -> None:
        self._plan, self._say = plan, say
        stream = plan.sweep.stream
        self._ledger = SweepLedger(stream.tracking or default_tracking(plan.store), stream.name)
        self._ledger.check()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clray-sweep-ledger")
        self._run = ""
        self._lock = threading.Lock()
        self._failed = False
        self._written: set[tuple[int, int]] = set()

    def __enter__(self) -> Bookkeeper:
        sweep = self._plan.sweep
        params = {field: json.dumps(p.model_dump(mode="json", exclude_unset=True)) for field, p in sweep.space.items()}
        params |= {"search": sweep.search.kind, "objectives": "; ".join(o.text for o in sweep.objectives)}
        self._run = self._ledger.open_sweep(
            digest(self._plan.folder), sweep.name, sweep_loading.to_yaml(sweep), _cut(params), sweep.description
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        ended = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self._try(lambda: self._ledger.finish(self._run, ended))

    def told(self, entry: Entry) -> None:
        """Has the thread write the trial, where it has ended."""
        if entry.ended and (entry.rung, entry.number) not in self._written:
            self._written.add((entry.rung, entry.number))
            self._later(lambda: self._write(entry))

    def publish(self, result: SweepResult) -> None:
        """Writes every trial that is not written yet, then hands page, table and the best stream to MLflow."""
        for entry in result.entries:
            self.told(entry)
        folder = self._plan.store.fetch(self._plan.folder)
        files = [folder / name for name in ("sweep.html", "sweep.json", "best.yaml") if (folder / name).exists()]
        self._later(lambda: [self._ledger.attach(self._run, path) for path in files]).result()

    def _write(self, entry: Entry) -> None:
        sweep, mark = self._plan.sweep, f"{digest(self._plan.folder, 16)}/{entry.rung}-{entry.number}"
        params = {field: _text(value) for field, value in entry.settings.items()}
        tags = {"clray.trial_status": entry.status, NOTE: entry.why}
        name = f"trial {entry.number}: {described(entry.settings)}"[:200]
        run = self._ledger.trial(self._run, mark, name, _cut(params), self._points(entry), tags)
        if entry.reports:
            store, keys = self._plan.store, entry.last["keys"]
            first = store.generation(keys[0])
            found = [first and first.parent and store.generation(first.parent), *map(store.generation, keys)]
            spec = loading.to_yaml(stream_of(sweep, entry.settings, sweep.shares[entry.rung]))
            self._ledger.link(run, [one for one in found if one], store, spec)
        self._ledger.finish(run, "FINISHED" if entry.status in (COMPLETE, STOPPED) else "FAILED")

    def _points(self, entry: Entry) -> list[Point]:
        """Metrics and costs after each stage, the step being the stage, and the objectives at the end."""
        score = score_of(self._plan.sweep, entry)
        ends = [(f"objective/{n}", value, entry.stage) for n, value in enumerate(score.values if score else (), 1)]
        return [
            *(
                (f"{unit}/{name}", value, report["stage"])
                for report in entry.reports
                for unit, named in {**report["metrics"], "cost": report["costs"]}.items()
                for name, value in named.items()
            ),
            *ends,
        ]

    def _later(self, write: Callable[[], Any]) -> Future[Any]:
        return self._thread.submit(self._try, write)

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except UserError as error:
            with self._lock:
                if not self._failed:
                    self._say(f"not written to MLflow: {error} Run the sweep again to write it.")
                self._failed = True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cut(params: dict[str, str]) -> dict[str, str]:
    """Parameters within MLflow's 6,000 characters a value."""
    return {name: text[:6000] for name, text in params.items()}
