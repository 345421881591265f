"""How many trials there is room for at one time, so that their worker groups never wait for each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from clray.errors import ResourceError
from clray.ray_session import demand
from clray.spec.stream import Stream

DRIVER_CPUS = 0.01
"""What Tune reserves for a trial's driver, which only waits for its workers."""
DATA_CPUS = 1.0
"""Left to the tasks that prepare data."""


@dataclass(frozen=True)
class Room:
    """`trials` fit at one time: each takes `each`, and there is `there`."""

    trials: int
    each: Mapping[str, float]
    there: Mapping[str, float]

    def __str__(self) -> str:
        takes = " and ".join(f"{amount:g} {kind}s" for kind, amount in self.each.items() if amount)
        has = " and ".join(f"{self.there.get(kind, 0):g} {kind}s" for kind, amount in self.each.items() if amount)
        return f"{self.trials} trial{'s' * (self.trials != 1)} at a time: each takes {takes}, there are {has}"


def room_on_cluster(stream: Stream, there: Mapping[str, float], at_once: int | None = None) -> Room:
    """The room on a cluster of so many CPUs and GPUs, for trials of the stream, at most `at_once`.

    A trial takes its largest worker group, its scoring actors and its driver; one CPU is left for preparing data. On
    GPUs that suffice for one trial alone, its training and scoring take turns. ResourceError, with the numbers, where
    not one fits.
    """
    each = _each(stream, stream.compute.workers.max)
    free = {**there, "CPU": there.get("CPU", 0) - DATA_CPUS}
    fits = _fits(each, free)
    if fits == 0:
        least = _each(stream, stream.compute.workers.min)
        least["GPU"] = max(least["GPU"] - _scoring_gpus(stream), _scoring_gpus(stream))
        fits = min(1, _fits(least, free))
        if fits == 0 and os.environ.get("CLRAY_AUTOSCALING") != "1":
            has = _words({kind: there.get(kind, 0) for kind, amount in least.items() if amount})
            raise ResourceError(
                f"a trial takes {_words(least)} (training workers, scoring actors and its driver), beside "
                f"{DATA_CPUS:g} CPU to prepare data, and the cluster has {has}; lower compute.workers, "
                "compute.cpus_per_worker or evaluation.workers of the stream"
            )
    fits = max(1, fits)
    return Room(min(fits, at_once or fits), each, there)


def room_here(stream: Stream, cores: int, gpus: int, at_once: int | None = None) -> Room:
    """The room on this machine alone, where a trial's training and scoring take turns on the cores.

    ResourceError where there are fewer GPUs than a trial takes. One trial may take more CPUs than there are cores.
    """
    compute, evaluation = stream.compute, stream.evaluation
    each = {
        "CPU": float(max(compute.workers.max * compute.cpus_per_worker, evaluation.workers)),
        "GPU": float(compute.workers.max * compute.gpus_per_worker) + _scoring_gpus(stream),
    }
    least = max(compute.workers.min * compute.gpus_per_worker, _scoring_gpus(stream))
    there = {"CPU": float(cores), "GPU": float(gpus)}
    if least > gpus:
        raise ResourceError(
            f"a trial takes {least:g} GPUs and this machine has {gpus}; lower compute.gpus_per_worker, "
            "compute.workers or evaluation.gpus_per_worker of the stream"
        )
    fits = max(1, _fits(each, there))
    return Room(min(fits, at_once or fits), each, there)


def cpus_here(stream: Stream, room: Room, cores: int) -> int:
    """Logical CPUs of a local cluster for so many trials: of the groups, the actors, the drivers and the data."""
    one = demand(stream, stream.compute.workers.max)["CPU"]
    return max(cores, room.trials * one + 2)


def threads_here(stream: Stream, room: Room, cores: int) -> int:
    """CPU threads of each worker on this machine, its cores shared by all trials that run at one time."""
    return max(1, cores // (max(stream.compute.workers.max, stream.evaluation.workers) * room.trials))


def _each(stream: Stream, workers: int) -> dict[str, float]:
    wanted = demand(stream, workers)
    return {"CPU": wanted["CPU"] + DRIVER_CPUS, "GPU": wanted["GPU"] + _scoring_gpus(stream)}


def _scoring_gpus(stream: Stream) -> float:
    return stream.evaluation.workers * stream.evaluation.gpus_per_worker


def _fits(each: Mapping[str, float], free: Mapping[str, float]) -> int:
    return min((int(free.get(kind, 0) / amount + 1e-9) for kind, amount in each.items() if amount), default=0)


def _words(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}s" for kind, amount in amounts.items() if amount) or "nothing"
