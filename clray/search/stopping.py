"""Which trials end early: Ray Tune's ASHA and median stopping, fed from the journal: a rerun decides as before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from clray.search import objectives
from clray.search.journal import COMPLETE, FAILED, RUNNING, STOPPED, Entry, Journal, Unkept
from clray.search.proposing import names_at
from clray.search.trial import REPORT
from clray.spec.sweep import Sweep

Told = Callable[[Entry], None]


@dataclass(frozen=True)
class StandIn:
    """What Tune's schedulers see of a trial: the same object in every run of the sweep."""

    trial_id: str


class Judge(Unkept, FIFOScheduler):
    """Tune's scheduler of one rung: takes each report, decides, writes both down, and tells `told`."""

    def __init__(self, sweep: Sweep, journal: Journal, rung: int, stages: int, told: Told) -> None:
        super().__init__()
        self._sweep, self._journal, self._rung, self._told = sweep, journal, rung, told
        self._rule = rule(sweep, stages)
        for entry, report in journal.in_order(rung):
            self._decide(entry, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on to its next stage."""
        return self._take(trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Takes the last report of a trial that has come to its end."""
        self._take(trial, result)

    def _take(self, trial: Any, result: dict[str, Any]) -> str:
        entry = self._journal.entries[self._rung, trial.config["number"]]
        report = json.loads(result.get(REPORT, "{}"))
        if entry.ended or not report:
            return str(TrialScheduler.STOP if entry.ended else TrialScheduler.CONTINUE)
        if "error" in report:
            self._told(self._journal.fail(entry, report["error"]))
            return str(TrialScheduler.STOP)
        if report["stage"] <= entry.stage and report["stage"] < report["of"]:
            return str(TrialScheduler.CONTINUE)
        status, why = self._judged(entry, report)
        self._told(self._journal.report(entry, report, status, why))
        return str(TrialScheduler.CONTINUE if status == RUNNING else TrialScheduler.STOP)

    def _judged(self, entry: Entry, report: dict[str, Any]) -> tuple[str, str]:
        stop = self._decide(entry, report)
        if report["stage"] < report["of"]:
            return (
                (STOPPED, f"stopped after stage {report['stage']} of {report['of']} by {stop}")
                if stop
                else (RUNNING, "")
            )
        try:
            objectives.score(self._sweep, names_at(self._sweep, entry, report))
        except ValueError as error:
            return FAILED, str(error)
        return COMPLETE, ""

    def _decide(self, entry: Entry, report: dict[str, Any]) -> str:
        """What rule stops the trial after this report, and its value; empty where none does."""
        value = objectives.early_value(self._sweep, objectives.early_names(report["metrics"], report["costs"]))
        if self._rule is None or value is None:
            return ""
        trial: Any = StandIn(str(entry.number))
        if not any(earlier["at"] < report.get("at", float("inf")) for earlier in entry.reports):
            self._rule.on_trial_add(None, trial)
        told = {"stage": report["stage"], "value": value}
        action = self._rule.on_trial_result(None, trial, told)
        stops = action == TrialScheduler.STOP and report["stage"] < report["of"]
        return f"{self._sweep.stopping.kind}, at {value:.4g}" if stops else ""


def rule(sweep: Sweep, stages: int) -> Any:
    """Tune's scheduler that the sweep asks for, over the stages of a trial; None where none is asked for."""
    stopping = sweep.stopping
    if stopping.kind == "none" or stopping.grace >= stages:
        return None
    if stopping.kind == "asha":
        return AsyncHyperBandScheduler(
            time_attr="stage",
            metric="value",
            mode="max",
            max_t=stages,
            grace_period=stopping.grace,
            reduction_factor=stopping.reduction,
        )
    return MedianStoppingRule(
        time_attr="stage",
        metric="value",
        mode="max",
        grace_period=stopping.grace,
        min_samples_required=stopping.least,
        min_time_slice=math.inf,  # type: ignore[arg-type]  # never: a paused trial would need a checkpoint of Tune's
    )
