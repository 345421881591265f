"""The training group: one Ray Train worker group that trains stage after stage.

Starting a `TorchTrainer` costs 12-25 s on a small machine: processes, imports, process group. So the group
stays between stages and takes its orders from a desk; it goes home when its devices are wanted elsewhere.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from clray.errors import UserError
from clray.lineage.store import Store
from clray.ray_session import find_user_error
from clray.spec.stream import Compute
from clray.train.order import Progress, StageLeft, StageOrder, StageResult

POLL_SECONDS = 0.1
COUNT_SECONDS = 5.0
GONE_SECONDS = 10.0


class TrainingGroup:
    """Workers that train the orders they are given. `train` starts them where none are there."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._desk: Any = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._busy = False
        self._counted = 0.0
        self._short = False

    def start(self) -> None:
        """Starts the workers without waiting for them; they import while the driver prepares data."""
        if self._thread is not None:
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from clray.train.desk import Desk

        self._failure = None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        self._thread = threading.Thread(target=self._fit, name="clray-training-group", daemon=True)
        self._thread.start()
        atexit.register(_let_go, self._thread)

    def train(self, order: StageOrder, watch: Callable[[Progress], None], say: Callable[[str], None]) -> StageResult:
        """Result of training the stage; `watch` is told of progress, `say` of what a person should read.

        Raises what made the workers fail.
        """
        import ray

        self.start()
        number = ray.get(self._desk.post.remote(order))
        self._busy = True
        seen: Progress | None = None
        while True:
            progress, notes, result = ray.get(self._desk.look.remote(number))
            for note in notes:
                say(note)
            if progress is not None and progress.key == order.key and progress != seen:
                watch(progress)
                seen = progress
            self._busy = result is None
            self._say_what_is_missing(say)
            if isinstance(result, UserError):
                raise result
            if result is not None:
                return result
            self._raise_failure()
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Sends the workers home when their order is done, which gives their CPUs and devices back."""
        if self._thread is None:
            return
        import ray

        ray.get(self._desk.post.remote(None))
        self._thread.join()
        ray.kill(self._desk)
        self._desk = self._thread = None

    def leave(self, save: bool) -> int | None:
        """Sends the workers home now. To `save`, waits for a checkpoint for at most the stream's `grace_seconds`.

        Returns the number of optimiser steps that were saved of the running stage; None where there was none.
        """
        if self._thread is None:
            return None
        import ray

        desk, thread = self._desk, self._thread
        self._desk = self._thread = None
        ray.get(desk.leave.remote())
        if not (save and self._busy):
            return None
        thread.join(self._compute.grace_seconds)
        return None if thread.is_alive() else ray.get(desk.left_at.remote())

    def _say_what_is_missing(self, say: Callable[[str], None]) -> None:
        """Says, once each time, that the cluster is too small by now for the fewest workers that may train."""
        if time.monotonic() - self._counted < COUNT_SECONDS:
            return
        import ray

        self._counted = time.monotonic()
        workers, cpus = self._compute.workers.min, self._compute.cpus_per_worker
        short = ray.cluster_resources().get("CPU", 0) < workers * cpus
        if short and not self._short:
            there = ray.cluster_resources().get("CPU", 0)
            say(f"waits for {workers} workers: they take {workers * cpus} CPUs, the cluster has {there:g} now")
        self._short = short

    def _raise_failure(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        failure, self._thread = self._failure, None
        raise (find_user_error(failure) or failure) if failure else RuntimeError("the training group left early")

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        compute, workers = self._compute, self._compute.workers
        num_workers: Any = workers.min if workers.min == workers.max else (workers.min, workers.max)
        resources = {
            "CPU": compute.cpus_per_worker,
            **({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {}),
        }
        trainer = TorchTrainer(
            work,
            train_loop_config={"desk": self._desk, "threads": compute.threads or _threads(compute)},
            torch_config=TorchConfig(backend="nccl" if compute.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=num_workers, use_gpu=bool(compute.gpus_per_worker), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=f"group-{uuid.uuid4().hex[:12]}",
                storage_path=self._store.path("groups"),
                storage_filesystem=self._store.fs,
                failure_config=FailureConfig(max_failures=compute.max_failures),
            ),
        )
        try:
            trainer.fit()
        except BaseException as error:
            self._failure = error


def _let_go(thread: threading.Thread) -> None:
    """Ends a thread that still waits inside Ray, when the process ends: Ray lets it go while the interpreter is taken
    down around it, and the exit code would be that of a segmentation fault."""
    if thread.is_alive():
        import ray

        ray.shutdown()
        thread.join(GONE_SECONDS)


def _threads(compute: Compute) -> int:
    """CPU threads of a worker: all cores shared on a local cluster, what Ray reserved on a shared one."""
    if os.environ.get("RAY_ADDRESS"):
        return compute.cpus_per_worker
    return max(1, (os.cpu_count() or 1) // compute.workers.max)


def work(config: dict[str, Any]) -> None:
    """What each worker does: trains one order after the other until it is sent home."""
    import ray
    import ray.train
    import torch
    from ray.train.torch import get_device

    from clray.train.context import Context
    from clray.train.loop import train_stage

    torch.set_num_threads(config["threads"])
    desk, ranks = config["desk"], ray.train.get_context()
    office = Office(desk)
    context = Context(
        rank=ranks.get_world_rank(),
        world=ranks.get_world_size(),
        device=get_device(),
        report=office.report,
        say=desk.say.remote,
        leave=office.leave,
    )
    done = 0
    while True:
        number, order = ray.get(desk.order.remote(done))
        if order is None:
            return
        try:
            result = train_stage(order, context)
        except StageLeft as left:
            ray.get(desk.leave_at.remote(left.step))
            return
        except UserError as error:
            ray.get(desk.finish.remote(number, error))
            raise
        if context.rank == 0:
            ray.get(desk.finish.remote(number, result))
        done = number


class Office:
    """Rank 0's line to the desk: progress goes there at most every `seconds`, and the wish to leave comes back."""

    def __init__(self, desk: Any, seconds: float = 0.2) -> None:
        self._desk = desk
        self._seconds = seconds
        self._last = 0.0
        self._answer: Any = None

    def report(self, progress: Progress) -> None:
        """Tells the desk of progress, now and then, and always of the last step."""
        now = time.monotonic()
        if now - self._last >= self._seconds or progress.step == progress.steps:
            self._last = now
            self._answer = self._desk.progress.remote(progress)

    def leave(self) -> bool:
        """Whether the newest answer that has come says to leave; never waits for one."""
        import ray

        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return False
        return bool(ray.get(self._answer))
