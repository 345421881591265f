"""The connection to Ray: an existing cluster where there is one, else a small one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any, Literal

import psutil
import tenacity

from clray.errors import ResourceError, UserError
from clray.ray_client import check_address, offer_token
from clray.spec.stream import Stream

QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DEDUP_LOGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
LOCAL_CLUSTER = {
    "RAY_idle_worker_killing_time_threshold_ms": "120000",
    "RAY_num_workers_soft_limit": "12",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""A worker process costs seconds of imports: on a local cluster it is kept for the next data pipeline, where Ray
would end it after a second of idling, and it is not outranked by everything else on the machine. Ray Train starts
none to look out for machines that are about to be taken away."""

ANYWHERE: Literal["DEFAULT"] = "DEFAULT"
"""Scheduling of tasks and actors that take their CPUs from the cluster at large. Left unsaid, what a sweep's trial
starts would have to fit into the placement group of that trial, which holds its driver alone."""

BLOCK_BYTES = 1 << 25
"""What a Ray Data task gathers of its output before handing it on; Ray's default of 128 MiB counts once a core."""


def connect(stream: Stream, cpus: int = 0, dashboard: bool = False) -> None:
    """Joins the cluster of RAY_ADDRESS, or starts a local one large enough for the stream, of at least `cpus`.

    On a local cluster the training group and the scoring actors take turns, so logical CPUs may exceed
    the cores. Raises ResourceError where an existing cluster does not answer, or is too small, with both numbers. With
    the `dashboard`, Ray lets the workers of a driver go that was killed inside the cluster, as a sweep's trial may be.
    """
    import ray

    if not ray.is_initialized():
        quiet(stream.compute.gpus_per_worker)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if os.environ.get("RAY_ADDRESS"):
            offer_token()
            check_address()
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            wanted = demand(stream, stream.compute.workers.max)["CPU"] + 1
            start_local(max(os.cpu_count() or 1, cpus, wanted), dashboard)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts a handler of its own there
    check_resources(demand(stream, stream.compute.workers.min), ray.cluster_resources())


def _too_busy(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    raise ResourceError(
        f"a local Ray did not start within 30 s, {state.attempt_number} times in a row; this machine has "
        f"{os.cpu_count()} cores and a load of {os.getloadavg()[0]:.0f}: end something else that runs on it, or name a "
        "cluster in RAY_ADDRESS"
    ) from error


@tenacity.retry(
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_fixed(5),
    retry=tenacity.retry_if_exception_message(match="The current node timed out during startup"),
    retry_error_callback=_too_busy,
)
def start_local(cpus: int, dashboard: bool = False, **more: Any) -> None:
    """Starts a cluster on this machine, with `more` settings of `ray.init`.

    Once more, and once again, where it did not answer within the 30 s that Ray waits, as on a busy machine; after that
    ResourceError. What a failed start leaves running is ended.
    """
    import ray

    _set_defaults(LOCAL_CLUSTER)
    before = set(psutil.Process().children(recursive=True))
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            log_to_driver=False,
            include_dashboard=dashboard,
            logging_level=logging.ERROR,
            **more,
        )
    except Exception:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        raise


def quiet(gpus: int = 0) -> None:
    """Sets the environment that Ray, DeepSpeed and transformers read at start: short polls, no chatter."""
    _set_defaults(QUIET | ({} if gpus else {"DS_ACCELERATOR": "cpu"}))
    warnings.filterwarnings("ignore", module="ray")


def _set_defaults(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def demand(stream: Stream, workers: int) -> dict[str, int]:
    """CPUs and GPUs that a training group of so many workers and the scoring actors hold together."""
    compute = stream.compute
    return {
        "CPU": workers * compute.cpus_per_worker + stream.evaluation.workers,
        "GPU": workers * compute.gpus_per_worker,
    }


def check_resources(wanted: dict[str, int], present: dict[str, float]) -> None:
    """Raises ResourceError where the cluster can never grant what is wanted; an autoscaling one may grow."""
    if os.environ.get("CLRAY_AUTOSCALING") == "1":
        return
    for kind, amount in wanted.items():
        if amount > present.get(kind, 0):
            raise ResourceError(
                f"the stream asks for {amount} {kind}s (training workers and scoring actors), the cluster has "
                f"{present.get(kind, 0):g}; lower compute.workers, compute.{'gpus' if kind == 'GPU' else 'cpus'}"
                "_per_worker or evaluation.workers, or set CLRAY_AUTOSCALING=1 where the cluster grows by itself"
            )


def run_dataset(build: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The rows of the Ray Data pipeline that `build(ray.data)` makes; a user's error comes out as itself."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        rows: list[dict[str, Any]] = build(ray.data).take_all()
        return rows
    except Exception as error:
        raise find_user_error(error) or error from None


def find_user_error(error: BaseException | None) -> UserError | None:
    """The UserError inside what Ray wrapped around it, or None."""
    for _ in range(20):
        if error is None:
            break
        inner = getattr(error, "cause", None) or error.__cause__ or error.__context__
        if isinstance(error, UserError) and not isinstance(inner, UserError):
            return type(error)(str(error).partition("\nFailed to apply UDF")[0])
        error = inner
    return None
