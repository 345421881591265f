"""Real MLflow servers on loopback for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


class MLflowServer:
    """An MLflow server that can be killed and started again at the same address."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend, self.port = folder, backend, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and returns when it has answered from its database."""
        command = [
            "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", self.backend, "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *command],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **QUIET},
                start_new_session=True,
            )
        wait_for(f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", self._process, self.folder / "log")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and its workers, at once with SIGKILL."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(30)


@contextlib.contextmanager
def mlflow_server(folder: Path, backend: str) -> Iterator[MLflowServer]:
    """A running server over the database `backend`, artifacts in the folder."""
    server = MLflowServer(folder, backend)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def served(script: str) -> Iterator[str]:
    """URI of a server that a script of the folder `mlflow` starts, in a folder that the user postgres may enter."""
    with tempfile.TemporaryDirectory(prefix="clray-served-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o711)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [ROOT / "mlflow" / script, folder / "data", str(port)],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **QUIET, "PATH": path, "MLFLOW_WORKERS": "1"},
                start_new_session=True,
            )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def needs_postgres() -> None:
    """Skips where PostgreSQL is not installed."""
    if not shutil.which("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(900):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server does not answer")
