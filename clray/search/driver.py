"""run(sweep): Ray Tune over the trials of a sweep, rung by rung; the journal decides what is still to be done."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from clray.lineage import lease
from clray.lineage.clock import now
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.ray_session import connect
from clray.search import objectives
from clray.search.journal import COMPLETE, FAILED, Entry, Journal, Unkept
from clray.search.planning import PlannedTrial, SweepPlan, plan_sweep, plan_trial
from clray.search.proposing import Listed, Proposed, score_of
from clray.search.recording import Bookkeeper
from clray.search.result import SweepResult
from clray.search.room import cpus_here, threads_here
from clray.search.stopping import Judge
from clray.search.trial import Trial
from clray.spec import loading
from clray.spec.sweep import Sweep

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""What Tune writes of itself is not read: the journal is. Ctrl-C ends the sweep as it ends a run."""


class Watcher(Protocol):
    """Whoever looks on while a sweep runs."""

    def say(self, text: str) -> None:
        """Something happened."""

    def begins(self, plan: SweepPlan, entries: Sequence[Entry]) -> None:
        """The sweep begins, with what its journal holds already."""

    def reported(self, entry: Entry) -> None:
        """A trial has trained and measured one more stage, or has ended."""


class Failures(Unkept, tune.Callback):
    """Records trials that failed once more than they are retried."""

    def __init__(self, journal: Journal, rung: int, told: Any) -> None:
        self._journal, self._rung, self._told = journal, rung, told

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keeps the last line of the error."""
        entry = self._journal.entries[self._rung, trial.config["number"]]
        told = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        self._told(self._journal.fail(entry, lines[-1] if lines else "its process ended"))


def run(sweep: Sweep, watch: Watcher, retry_failed: bool = False) -> SweepResult:
    """The result of the sweep. What its journal and the store hold is taken; with `retry_failed` its failed trials are
    run again.

    Everything that is known beforehand is checked first. One driver at a time runs a sweep; a second one waits.
    """
    started = time.monotonic()
    plan = plan_sweep(sweep)
    with lease.hold(plan.store, f"sweep-{digest(plan.folder, 12)}", f"sweep {sweep.name}", watch.say):
        journal, before = Journal.read(plan.store, plan.folder), _made(plan.store)
        if retry_failed:
            journal.forget(FAILED)
        with Bookkeeper(plan, watch.say) as books:
            watch.begins(plan, list(journal.entries.values()))

            def told(entry: Entry) -> None:
                watch.reported(entry)
                books.told(entry)

            _rungs(plan, journal, told, started)
            result = SweepResult.of(plan, journal, before, now(), time.monotonic() - started)
            result.publish()
            books.publish(result)
    return result


def _rungs(plan: SweepPlan, journal: Journal, told: Any, started: float) -> None:
    """Runs the trials of one rung after the other, the best of each going on to the next."""
    sweep, trials = plan.sweep, list(plan.trials)
    for rung in range(len(sweep.shares)):
        if rung:
            trials = [_planned(plan, entry) for entry in promoted(sweep, journal, rung - 1)]
        searcher = (
            Proposed(sweep, journal, _configured(plan), told)
            if rung == 0 and sweep.search.kind == "optuna"
            else Listed(trials, journal, rung, _configured(plan))
        )
        wanted = plan.count if rung == 0 else len(trials)
        ended = sum(entry.ended for entry in journal.of_rung(rung))
        if ended < wanted:
            _tune(plan, journal, rung, searcher, wanted, told, started)


def promoted(sweep: Sweep, journal: Journal, rung: int) -> list[Entry]:
    """The entries of the rung that go on to the next one: the best share of all that were begun, the best first."""
    entries = journal.of_rung(rung)
    whole = [entry for entry in entries if entry.status == COMPLETE]
    scores = [score for entry in whole if (score := score_of(sweep, entry)) is not None]
    assert sweep.fidelity is not None, "only a sweep with fidelity has several rungs"
    best = objectives.ranking(scores, [objective.sign for objective in sweep.objectives])
    return [whole[place] for place in best[: math.ceil(sweep.fidelity.keep * len(entries))]]


def _made(store: Store) -> set[str]:
    """Keys of all committed generations."""
    return {key for key in store.list("generations") if store.exists(f"generations/{key}/generation.json")}


def _planned(plan: SweepPlan, entry: Entry) -> PlannedTrial:
    known = {trial.number: trial for trial in plan.trials}
    return known.get(entry.number) or plan_trial(plan.sweep, entry.number, entry.settings)


def _configured(plan: SweepPlan) -> Any:
    """What a trial's actor is told of a trial at a rung."""
    local = not os.environ.get("RAY_ADDRESS")
    threads = threads_here(plan.first.stream, plan.room, os.cpu_count() or 1) if local else 0

    def configured(trial: PlannedTrial, rung: int) -> dict[str, Any]:
        at = trial.rungs[rung]
        stream = json.dumps(loading.dump(at.stream))
        told = {"number": trial.number, "stream": stream, "stages": len(at.chain)}
        return {**told, "threads": threads, "folder": os.getcwd()}

    return configured


def _tune(plan: SweepPlan, journal: Journal, rung: int, searcher: Any, wanted: int, told: Any, started: float) -> None:
    """Has Tune run the trials of one rung that have not ended."""
    os.environ.update(QUIET)
    connect(plan.first.stream, cpus_here(plan.first.stream, plan.room, os.cpu_count() or 1), dashboard=True)
    hours = plan.sweep.hours
    left = None if hours is None else max(1.0, 3600 * hours - (time.monotonic() - started))
    tune.Tuner(
        Trial,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Judge(plan.sweep, journal, rung, plan.num_stages, told),
            num_samples=wanted,
            max_concurrent_trials=plan.room.trials,
            reuse_actors=True,
            trial_dirname_creator=_dirname,
            time_budget_s=left,
        ),
        run_config=tune.RunConfig(
            name=f"sweep-{uuid.uuid4().hex[:12]}",
            storage_path=plan.store.path("groups"),
            storage_filesystem=plan.store.fs,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=plan.sweep.retries),
            callbacks=[Failures(journal, rung, told)],
            verbose=0,
        ),
    ).fit()


def _dirname(trial: Any) -> str:
    """Tune's folder of a trial; its own choice would be the whole configuration."""
    return str(trial.trial_id)
