"""Which trial comes next: Tune's searcher of one rung, over the trials that are planned or that Optuna proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from clray.errors import UserError
from clray.search import objectives
from clray.search.journal import COMPLETE, Entry, Journal, Unkept
from clray.search.planning import PlannedTrial, plan_trial
from clray.search.space import Settings, proposed
from clray.spec.sweep import Sweep

Configured = Callable[[PlannedTrial, int], dict[str, Any]]


class Listed(Unkept, Searcher):
    """The trials of a list, one after the other; those that have ended in the journal are passed over."""

    def __init__(self, trials: Sequence[PlannedTrial], journal: Journal, rung: int, configured: Configured) -> None:
        super().__init__()
        self._waiting = list(trials)
        self._journal, self._rung, self._configured = journal, rung, configured
        for trial in trials:
            journal.begin(entry_of(trial, rung))

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial, or that there is none."""
        while self._waiting:
            trial = self._waiting.pop(0)
            if not self._journal.entries[self._rung, trial.number].ended:
                return self._configured(trial, self._rung)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The journal knows it already."""

    def save(self, checkpoint_path: str) -> None:
        """The journal is all there is to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """A sweep goes on from its journal."""


class Proposed(Listed):
    """Trials that Optuna proposes from those that have ended. What was proposed once stands in the journal."""

    def __init__(self, sweep: Sweep, journal: Journal, configured: Configured, told: Callable[[Entry], None]) -> None:
        super().__init__((), journal, 0, configured)
        self._sweep, self._told, self._next = sweep, told, 0

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial. A proposal that makes no stream is recorded as failed."""
        while self._next < (self._sweep.search.trials or 0):
            number, self._next = self._next, self._next + 1
            there = self._journal.entries.get((0, number))
            settings = there.settings if there else proposed(self._sweep, history(self._sweep, self._journal), number)
            try:
                trial = plan_trial(self._sweep, number, settings)
            except UserError as error:
                entry = Entry(rung=0, number=number, settings=settings, mark="")
                self._told(self._journal.fail(self._journal.begin(entry), str(error)))
                continue
            if not self._journal.begin(entry_of(trial, 0)).ended:
                return self._configured(trial, 0)
        return Searcher.FINISHED


def entry_of(trial: PlannedTrial, rung: int) -> Entry:
    """The entry that a trial begins with."""
    return Entry(rung=rung, number=trial.number, settings=trial.settings, mark=trial.mark)


def history(sweep: Sweep, journal: Journal) -> list[tuple[Settings, objectives.Score | None]]:
    """Settings and scores of the trials of the first rung that have ended, in the order in which they did."""
    ended = [entry for entry in journal.of_rung(0) if entry.ended]
    ended.sort(key=lambda entry: (entry.last["at"] if entry.reports else -1, entry.number))
    return [(entry.settings, score_of(sweep, entry)) for entry in ended]


def score_of(sweep: Sweep, entry: Entry) -> objectives.Score | None:
    """The score of an entry that ran to the end of its rung; None of any other."""
    return objectives.score(sweep, names_at(sweep, entry, entry.last)) if entry.status == COMPLETE else None


def names_at(sweep: Sweep, entry: Entry, report: dict[str, Any]) -> dict[str, float]:
    """What expressions may name of a report; on a rung below the last what needs a longer past is 0."""
    full = entry.rung == len(sweep.shares) - 1 and report["stage"] == report["of"]
    return (objectives.names if full else objectives.early_names)(report["metrics"], report["costs"])
