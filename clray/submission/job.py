"""A stream as a job of a cluster: submitted once, found again, followed to its end."""

from __future__ import annotations

import asyncio
import math
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clray.errors import Terminated, UserError
from clray.ray_client import MODE
from clray.spec.stream import Stream
from clray.submission import server
from clray.submission.package import STREAM_FILE, Package, pack
from clray.submission.server import Say

RUNNING, SUCCEEDED = ("PENDING", "RUNNING"), "SUCCEEDED"
STOP_MARGIN_SECONDS = 30
"""How much longer than the stream's own grace Ray waits when the job is stopped, before it kills."""


def to_stderr(text: str) -> None:
    """Prints a line for people, away from the job's own output."""
    print(f"clray: {text}", file=sys.stderr, flush=True)


def to_stdout(text: str) -> None:
    """Prints a piece of the job's output as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of a cluster, by its submission id."""

    id: str
    address: str
    client: Any
    patience: float
    say: Say

    @property
    def status(self) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self._info().status.value)

    def follow(self, write: Callable[[str], object] = to_stdout) -> int:
        """Exit code of the job, whose log goes to `write` until it ends: 0, 1, or 2 after a user's error.

        A lost connection is taken up again where it broke. Ctrl-C leaves the job running, says so and gives 130
        (SIGTERM: 143).
        """
        try:
            self._show_log(write)
        except KeyboardInterrupt as stop:
            self.say(f"not following any more; the job goes on. {self.hint}")
            return 143 if isinstance(stop, Terminated) else 130
        return self._exit_code()

    @property
    def hint(self) -> str:
        """How to follow and to stop the job."""
        token = f"{MODE}=token " if os.environ.get(MODE) == "token" else ""
        ray = f"{token}ray job %s --address {self.address} {self.id}"
        return f"Follow it with the same command, or: {ray % 'logs --follow'}. Stop it: {ray % 'stop'}"

    def _show_log(self, write: Callable[[str], object]) -> None:
        """Writes the log from its beginning to the job's end, each part once over all connections."""
        shown = 0

        async def tail() -> None:
            nonlocal shown
            seen = 0
            async for text in self.client.tail_job_logs(self.id):
                seen += len(text)
                if seen > shown:
                    write(text[shown - seen :])
                    shown = seen

        while True:
            server.patiently(lambda: asyncio.run(tail()), self.address, self.patience, self.say)
            if self.status not in RUNNING:
                return
            time.sleep(server.PAUSE_SECONDS)

    def _exit_code(self) -> int:
        info = self._info()
        if info.status.value == SUCCEEDED:
            return 0
        code = info.driver_exit_code
        if info.status.value == "STOPPED":
            self.say(f"job {self.id} was stopped; the same command starts it again where it stopped")
        elif code is None:
            self.say(f"job {self.id} did not start: {str(info.message).strip().splitlines()[-1]}")
        elif code == 127:
            self.say("the cluster has no such Python on its PATH: name it with --python, say --python python3")
        else:
            self.say(f"job {self.id} failed; the same command starts it again where it stopped")
        return 2 if code == 2 else 1

    def _info(self) -> Any:
        return server.patiently(lambda: self.client.get_job_info(self.id), self.address, self.patience, self.say)


def submit(
    stream: Stream,
    address: str | None = None,
    *,
    env: Iterable[str] = (),
    python: str = "python",
    code: bool = True,
    patience: float = 60,
    say: Say = to_stderr,
) -> Job:
    """The job that runs the stream on the cluster whose job server is at `address`.

    A job of the same stream, data and code that is running there is taken as it is. One that ended is started
    again under the next name, and takes from the storage what is there. `env` names variables of this process that
    the job gets; clray shows their values nowhere, Ray shows them to whoever may ask the cluster. `patience` are
    the seconds that a job server which comes up is waited for. Raises UserError before anything is sent.
    """
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(stream.compute.grace_seconds) + STOP_MARGIN_SECONDS)}
    variables |= _forwarded(env)
    package = pack(stream, code)
    address = server.address_of(address)
    if package.elsewhere:
        say(f"taken as the cluster's own paths: {', '.join(package.elsewhere)}")
    if stream.tracking is None:
        say(f"MLflow is a SQLite file in {stream.storage}: right where that is one disk that every node mounts")
    client = server.connect(address, patience, say)
    name = f"clray-{stream.name}-{package.digest}"

    def job(submission_id: str) -> Job:
        return Job(id=submission_id, address=address, client=client, patience=patience, say=say)

    earlier = server.patiently(client.list_jobs, address, patience, say)
    attempt, status = _last_attempt(name, {j.submission_id: j.status.value for j in earlier if j.submission_id})
    if status in RUNNING:
        running = job(_attempt_name(name, attempt))
        say(f"job {running.id} is {status.lower()} already. {running.hint}")
        return running
    if attempt:
        ended = _attempt_name(name, attempt)
        say(f"job {ended} has {status.lower()}; started again, what is in the storage is taken and not made again")
    submitted = job(_attempt_name(name, attempt + 1))
    _send(submitted, package, stream, variables, python)
    count = len(package.files) - sum(file.startswith("clray/") for file in package.files)
    say(f"submitted {submitted.id} with {count} files of the stream. {submitted.hint}")
    return submitted


def _send(job: Job, package: Package, stream: Stream, variables: dict[str, str], python: str) -> None:
    run = f"{shlex.quote(python)} -m clray run {STREAM_FILE}"
    entrypoint = run if package.folder == "." else f"cd {shlex.quote(package.folder)} && {run}"
    with tempfile.TemporaryDirectory(prefix="clray-submit-") as scratch:
        archive = Path(scratch) / "package.zip"
        package.write(archive)

        def send() -> None:
            try:
                job.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job.id,
                    runtime_env={"working_dir": str(archive), "env_vars": variables},
                    metadata={"clray.stream": stream.name},
                )
            except RuntimeError as error:  # an earlier try arrived, or another submitter was quicker
                if "already exists" not in str(error):
                    raise

        server.patiently(send, job.address, job.patience, job.say)


def _forwarded(names: Iterable[str]) -> dict[str, str]:
    """The variables of this process that the job gets, by their names."""
    names = list(names)
    for name in names:
        if "=" in name:
            raise UserError(
                f"--env {name.partition('=')[0]}=...: give the name alone, the value is taken from the environment, "
                "so that no secret stands on a command line"
            )
        if name not in os.environ:
            raise UserError(f"--env {name}: there is no such variable in the environment; export it first")
    return {name: os.environ[name] for name in names}


def _attempt_name(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}-{attempt}"


def _last_attempt(name: str, jobs: dict[str, str]) -> tuple[int, str]:
    """Number and status of the last job of that name; (0, "") where there is none."""
    attempt = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = {int(match[1] or 1): status for job, status in jobs.items() if (match := attempt.fullmatch(job))}
    return max(found.items(), default=(0, ""))
