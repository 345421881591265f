"""A trial: a cheap driver around the conductor that trains and measures one stage at each of Tune's steps.

Starting a training group costs 12-25 s on a small machine, so it stays with the actor, and Tune gives the actor one
trial after the other (`reuse_actors`). A trial keeps nothing itself: what it made lies in the store, by key.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from ray import tune

from clray import conductor
from clray.errors import UserError
from clray.lineage import notes
from clray.lineage.gate import Verdict
from clray.lineage.generation import Generation
from clray.lineage.mlflow_store import redact
from clray.outcome import line_outcome
from clray.planned import Line, Plan, PlannedStage
from clray.planner import make_plan
from clray.search.objectives import COSTS
from clray.search.room import DRIVER_CPUS
from clray.session import Session
from clray.spec import loading
from clray.spec.stream import Stream
from clray.train.order import Progress

REPORT = "report"
"""Key of Tune's result that holds the report, as JSON."""


class Listener:
    """A watcher that keeps what is said until it is told on."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keeps the text."""
        self.said.append(text)

    def training(self, line: str, stage: str, progress: Progress) -> None:
        """Nobody looks on."""

    def measuring(self, stage: str, task: str, done: int, of: int) -> None:
        """Nobody looks on."""


class Unrecorded:
    """The sweep's driver alone writes to MLflow, when the trial has ended."""

    def record(self, line: Line, made: Generation) -> None:
        """Leaves it to the driver."""

    def judge(self, line: Line, planned: PlannedStage, verdict: Verdict) -> None:
        """Leaves it to the verdict in the store."""


class Trial(tune.Trainable):
    """One trial after the other, with the same training group and scoring actors.

    `config` holds the stream (JSON of its plain values), how many `stages` of it are to be trained, the CPU `threads`
    of each worker and scoring actor (0: as ever), and the `folder` to which relative paths belong. A report is the
    state after a stage: metrics, costs, keys, and how many generations were `built`.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune reserves for the driver; what it starts takes its own from the cluster at large."""
        return tune.PlacementGroupFactory([{"CPU": DRIVER_CPUS}])

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the first trial's configuration, in the driver's working directory, where it is there."""
        if os.path.isdir(config["folder"]):
            os.chdir(config["folder"])
        self._session: Session | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial's configuration; the session stays."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The report after one more stage; of an error that a person must mend, and no retry can."""
        try:
            report = self._advance(self.iteration + 1)
        except UserError as error:
            self._end(type(error))
            return {REPORT: json.dumps({"error": str(error)}), "done": True}
        except BaseException as error:
            self._end(type(error))
            raise
        return {REPORT: json.dumps(report), "done": report["stage"] == report["of"]}

    def cleanup(self) -> None:
        """Sends training group and scoring actors home."""
        self._end(None)

    def _begin(self, config: dict[str, Any]) -> None:
        self._stream = loading.validate(json.loads(config["stream"]), "the trial's stream")
        self._stages, self._threads = config["stages"], config["threads"]
        self.config = config

    def _advance(self, number: int) -> dict[str, Any]:
        """Goes on to stage `number`. Where the line has become another one meanwhile, since a stage ended early, the
        conductor has gone all its way, and the trial has ended."""
        watch, built = Listener(), set[str]()
        part = part_of(make_plan(self._stream), number)
        line = self._make(part, built, watch)
        of = len(make_plan(self._stream).lines[0].stages)
        return {
            "stage": len(line.stages),
            "of": max(len(line.stages), min(of, self._stages)),
            "name": line.stages[-1].stage.name,
            "keys": line.keys[1:],
            "built": len(built),
            "said": watch.said,
            **measured(part, line),
        }

    def _make(self, part: Plan, built: set[str], watch: Listener) -> Line:
        """Trains and measures what is missing of the part; its line, as it came out."""
        if self._session is None:
            self._session = Session(replace(part, stream=with_threads(part.stream, self._threads)), watch.say)
        tracking = part.stream.tracking and redact(part.stream.tracking)
        for spec in dict.fromkeys(loading.to_yaml(chain.stream) for chain in part.chains):
            notes.keep(part.store, part.stream.name, spec, tracking)
        conductor.prepare(part, self._session, watch)
        came = [conductor.follow(part, c, self._session, Unrecorded(), watch, True, built) for c in part.chains]
        return came[len(part.generators)]

    def _end(self, kind: type[BaseException] | None) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(kind)


def part_of(plan: Plan, number: int) -> Plan:
    """The plan of the first `number` stages; with the experts, where these are all."""
    line = plan.lines[0]
    whole = number >= len(line.stages)
    return replace(plan, lines=(replace(line, stages=line.stages[:number]),), experts=plan.experts if whole else ())


def measured(plan: Plan, line: Line) -> dict[str, Any]:
    """Metrics by unit of score of the line as far as it reaches, and what it cost: as if it had been trained alone."""
    outcome = line_outcome(plan, line)
    made = [generation.training for generation in outcome.generations[1:]]
    seconds = sum(training["seconds"] * training.get("workers", 1) for training in made)
    costs = (sum(training["tokens"] for training in made), seconds, sum(training["flops"] for training in made))
    return {"metrics": outcome.metrics, "costs": dict(zip(COSTS, map(float, costs), strict=True))}


def with_threads(stream: Stream, threads: int) -> Stream:
    """The stream whose workers and scoring actors have at most so many threads; as it is where that is 0."""
    if not threads:
        return stream
    compute, evaluation = stream.compute, stream.evaluation
    return stream.model_copy(
        update={
            "compute": compute.model_copy(update={"threads": compute.threads or threads}),
            "evaluation": evaluation.model_copy(update={"threads": evaluation.threads or threads}),
        }
    )
