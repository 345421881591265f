"""What a sweep comes to: its trials, the keys of their generations, what they share, how many run at one time."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from clray.data import records
from clray.errors import SpecError
from clray.evaluation.metrics import continual_metrics
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.outcome import score_matrix
from clray.planned import Plan
from clray.planner import make_plan
from clray.ray_session import connect
from clray.search import objectives, ordering
from clray.search.journal import FOLDER
from clray.search.room import Room, room_here, room_on_cluster
from clray.search.space import Settings, corners, settings_of, stream_of
from clray.spec import sweep_loading
from clray.spec.stream import Stream
from clray.spec.sweep import Sweep

PRESENTATION = ("description", "at_once", "hours", "retries")
"""Fields of a sweep that change no trial and no decision."""


@dataclass(frozen=True)
class Rung:
    """What a trial runs at one rung: a stream, and the keys of the generations of its first stages that it trains."""

    stream: Stream
    chain: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial. `extra` are keys of the experts and generators that it needs beside its own chain; `mark` is a digest
    of all that its results depend on."""

    number: int
    settings: Settings
    rungs: tuple[Rung, ...]
    extra: tuple[str, ...]
    mark: str


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A sweep with its trials, as far as they are known beforehand: Optuna proposes them one by one."""

    sweep: Sweep
    store: Store
    first: Plan
    trials: tuple[PlannedTrial, ...]
    room: Room

    @property
    def count(self) -> int:
        """How many trials there will be."""
        return self.sweep.search.trials or len(self.trials)

    @property
    def folder(self) -> str:
        """Where the sweep's journal, table, page and best stream lie in the store."""
        plain = {name: value for name, value in sweep_loading.dump(self.sweep).items() if name not in PRESENTATION}
        return f"{FOLDER}/{self.sweep.name}/{digest(plain, 10)}"

    @property
    def at_most(self) -> bool:
        """Whether the trainings are a bound: some trials end early, or are not known yet."""
        sweep = self.sweep
        return sweep.stopping.kind != "none" or sweep.fidelity is not None or sweep.search.kind == "optuna"

    @property
    def num_stages(self) -> int:
        """Stages of a full trial."""
        return len(self.first.lines[0].stages)

    @cached_property
    def trainings(self) -> ordering.Trainings:
        """Stage trainings of the sweep, at most where trials end early. Of Optuna's trials nothing is known to be
        shared but a first stage without a searched field, so all count."""
        if not self.trials:
            stages = self.num_stages * self.count * len(self.sweep.shares)
            return ordering.Trainings(stages, stages, 0)
        chains = [chain for trial in self.trials for chain in (*self._run(trial), trial.extra)]
        there = {key for chain in chains for key in chain if self.store.generation(key) is not None}
        return ordering.trainings(chains, there)

    def _run(self, trial: PlannedTrial) -> tuple[tuple[str, ...], ...]:
        """The chains that the trial trains: a full stream holds the beginnings of itself."""
        by_stages = self.sweep.fidelity is None or self.sweep.fidelity.of == "stages"
        return tuple(rung.chain for rung in (trial.rungs[-1:] if by_stages else trial.rungs))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        found = self.trainings
        return {
            "sweep": self.sweep.name,
            "trials": self.count,
            "stages": self.num_stages,
            "trainings": {
                "at_most": self.at_most,
                "alone": found.alone,
                "needed": found.needed,
                "saved": found.saved,
                "there": found.there,
                "left": found.left,
            },
            "at_once": self.room.trials,
            "room": str(self.room),
            "settings": [trial.settings for trial in self.trials],
        }


def plan_sweep(sweep: Sweep) -> SweepPlan:
    """The plan of the sweep. Every trial that is known beforehand is planned, so that none fails late for what can be
    known: SpecError, ModelError and so on naming its settings; ResourceError where not one trial fits."""
    known = sweep.search.kind != "optuna"
    for settings in () if known else corners(sweep):
        plan_trial(sweep, 0, settings)
    listed = settings_of(sweep) if known else []
    first = make_plan(stream_of(sweep, listed[0] if known else corners(sweep)[0]))
    _check_tasks(sweep, first)
    objectives.check_names(sweep, defined_names(first))
    trials = [plan_trial(sweep, number, settings) for number, settings in enumerate(listed)]
    room = find_room(first.stream, sweep.at_once)
    places = ordering.order([trial.rungs[-1].chain for trial in trials], room.trials)
    return SweepPlan(
        sweep=sweep, store=first.store, first=first, trials=tuple(trials[place] for place in places), room=room
    )


def plan_trial(sweep: Sweep, number: int, settings: Settings) -> PlannedTrial:
    """The trial of these settings."""
    rungs: list[Rung] = []
    plan, planned = None, None
    for share in sweep.shares:
        stream = stream_of(sweep, settings, share)
        if plan is None or stream != planned:
            plan, planned = make_plan(stream), stream
        chain = tuple(plan.lines[0].keys[1:])
        whole = sweep.fidelity is None or sweep.fidelity.of == "length"
        rungs.append(Rung(stream, chain if whole else chain[: math.ceil(share * len(chain))]))
    assert plan is not None
    extra = tuple(stage.key for line in (*plan.generators, *plan.experts) for stage in line.stages)
    mark = digest([[rung.chain for rung in rungs], extra, [task.digest for task in plan.tasks]])
    return PlannedTrial(number=number, settings=settings, rungs=tuple(rungs), extra=extra, mark=mark)


def defined_names(plan: Plan) -> dict[str, float]:
    """The names that expressions over a full trial may hold, with some value each."""
    line = plan.lines[0]
    matrix = score_matrix(plan, line)
    wanted = [[line.measures(task, row) for task in matrix.tasks] for row in range(len(matrix.R))]
    filled = replace(matrix, R=tuple(tuple(0.5 if cell else None for cell in row) for row in wanted))
    single = dict.fromkeys(matrix.tasks, 0.5) if plan.experts else {}
    return objectives.names(continual_metrics(filled, single), dict.fromkeys(objectives.COSTS, 1.0))


def find_room(stream: Stream, at_once: int | None) -> Room:
    """The room for trials of the stream: on the cluster of RAY_ADDRESS, which is joined for that, or here."""
    import ray

    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        connect(stream)
        return room_on_cluster(stream, ray.cluster_resources(), at_once)
    return room_here(stream, os.cpu_count() or 1, _gpus_here(stream), at_once)


def _gpus_here(stream: Stream) -> int:
    if not (stream.compute.gpus_per_worker or stream.evaluation.gpus_per_worker):
        return 0
    import torch

    return int(torch.cuda.device_count())


def _check_tasks(sweep: Sweep, plan: Plan) -> None:
    """Raises SpecError where a task of the sweep is read from the very files of one of the stream's own tasks: the best
    trial would be chosen on what it is to be measured on."""
    for task in sweep.stream.tasks:
        files = {opened.digest for opened in records.open_sources(task.data, plan.store)}
        for spec in plan.tasks:
            if files & {opened.digest for opened in spec.sources}:
                raise SpecError(
                    f"sweep '{sweep.name}': its task '{spec.task.name}' reads the same file as task '{task.name}' of "
                    "the stream, on which the best trial is to be measured; give the sweep dev splits, or take the "
                    "stream's task away with stream.tasks=[]"
                )
