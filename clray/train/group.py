"""The training group: one Ray Train worker group that trains stage after stage.

Starting a `TorchTrainer` costs 12-25 s on a small machine: processes, imports, process group. So the group
stays between stages and takes its orders from a desk; it goes home when its devices are wanted elsewhere.
"""

from __future__ import annotations

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
from clray.train.order import Progress, StageOrder, StageResult

POLL_SECONDS = 0.1


class TrainingGroup:
    """Workers that train the orders they are given. `train` starts them where none are there."""

    def __init__(self, compute: Compute, store: Store) -> None:
        self._compute = compute
        self._store = store
        self._desk: Any = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Starts the workers without waiting for them; they import while the driver prepares data."""
        if self._thread is not None:
            return
        import ray

        from clray.train.desk import Desk

        self._failure = None
        self._desk = ray.remote(Desk).options(num_cpus=0).remote()
        self._thread = threading.Thread(target=self._fit, name="clray-training-group", daemon=True)
        self._thread.start()

    def train(self, order: StageOrder, watch: Callable[[Progress], None]) -> StageResult:
        """Result of training the stage; `watch` is told of progress. Raises what made the workers fail."""
        import ray

        self.start()
        number = ray.get(self._desk.post.remote(order))
        while True:
            progress, result = ray.get(self._desk.look.remote(number))
            if progress is not None and progress.key == order.key:
                watch(progress)
            if isinstance(result, UserError):
                raise result
            if result is not None:
                return result
            self._raise_failure()
            time.sleep(POLL_SECONDS)

    def release(self, wait: bool = True) -> None:
        """Sends the workers home, which gives their CPUs and devices back; does not `wait` after a failure."""
        if self._thread is None:
            return
        import ray

        ray.get(self._desk.post.remote(None))
        if wait:
            self._thread.join()
            ray.kill(self._desk)
        self._desk = self._thread = None

    def _raise_failure(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        failure, self._thread = self._failure, None
        raise (find_user_error(failure) or failure) if failure else RuntimeError("the training group left early")

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        compute = self._compute
        resources = {
            "CPU": compute.cpus_per_worker,
            **({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {}),
        }
        trainer = TorchTrainer(
            work,
            train_loop_config={"desk": self._desk, "threads": compute.threads or _threads(compute)},
            torch_config=TorchConfig(backend="nccl" if compute.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=compute.workers, use_gpu=bool(compute.gpus_per_worker), resources_per_worker=resources
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


def _threads(compute: Compute) -> int:
    """CPU threads of a worker: all cores shared on a local cluster, what Ray reserved on a shared one."""
    if os.environ.get("RAY_ADDRESS"):
        return compute.cpus_per_worker
    return max(1, (os.cpu_count() or 1) // compute.workers)


def work(config: dict[str, Any]) -> None:
    """What each worker does: trains one order after the other until it is sent home."""
    import ray
    import ray.train
    import torch
    from ray.train.torch import get_device

    from clray.train.loop import Context, train_stage

    torch.set_num_threads(config["threads"])
    desk, ranks = config["desk"], ray.train.get_context()
    context = Context(
        rank=ranks.get_world_rank(), world=ranks.get_world_size(), device=get_device(), report=_throttled(desk)
    )
    done = 0
    while True:
        number, order = ray.get(desk.order.remote(done))
        if order is None:
            return
        try:
            result = train_stage(order, context)
        except UserError as error:
            ray.get(desk.finish.remote(number, error))
            raise
        if context.rank == 0:
            ray.get(desk.finish.remote(number, result))
        done = number


def _throttled(desk: Any, seconds: float = 0.2) -> Callable[[Progress], None]:
    """A reporter that tells the desk at most every `seconds`, and always of the last step."""
    last = [0.0]

    def report(progress: Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= seconds or progress.step == progress.steps:
            last[0] = now
            desk.progress.remote(progress)

    return report
