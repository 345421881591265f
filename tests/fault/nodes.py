"""A Ray cluster of several nodes on one machine, each a `ray start` of its own, and drivers that can be killed."""

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
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: psutil.Process | subprocess.Popen) -> None:
    """Kills the process and all its descendants with -9, as a machine that is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for each in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
    if isinstance(process, subprocess.Popen):
        process.wait()


class Nodes:
    """One head without CPUs for work, and worker nodes that come and go. Ports and temp folder of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="clf-", dir="/tmp")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen] = []
        self.head = self._start(f"--head --port={self.port} --num-cpus=0 --include-dashboard=false")

    def add(self, cpus: int) -> subprocess.Popen:
        """Starts a worker node, and waits until the cluster counts it."""
        node = self._start(f"--address={self.address} --num-cpus={cpus}")
        self.workers.append(node)
        return node

    def training_nodes(self) -> list[subprocess.Popen]:
        """Worker nodes on which a training worker runs."""
        return [node for node in self.workers if training_workers(node)]

    def lose(self, node: subprocess.Popen) -> None:
        """The machine is gone: everything on it dies at once."""
        end(node)
        self.workers.remove(node)

    def close(self) -> None:
        """Ends all nodes."""
        for node in [*self.workers, self.head]:
            end(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, arguments: str) -> subprocess.Popen:
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        own = [f"--{name}={free_port()}" for name in ports]
        own.append(f"--temp-dir={tempfile.mkdtemp(prefix='n-', dir=self.folder)}")
        log = Path(self.folder) / f"start-{time.time_ns()}.log"
        with log.open("w") as out:
            node = subprocess.Popen(
                [RAY, "start", "--block", *arguments.split(), "--min-worker-port=0", "--max-worker-port=0", *own],
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"RAY_RAYLET_START_WAIT_TIME_S": "120", "OMP_NUM_THREADS": "1"},
            )
        wait_for(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None, 300)
        assert node.poll() is None, log.read_text()
        return node


def training_workers(node: subprocess.Popen) -> list[psutil.Process]:
    """The training workers among the node's processes."""
    found = []
    for process in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process)
    return found


def wait_for(condition, seconds: float = 400.0):
    """What `condition` returns as soon as it is true; AssertionError after so many seconds."""
    stop = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < stop, f"not within {seconds:.0f} s"
        time.sleep(0.02)
    return value


class Driver:
    """`clray run` in a process of its own, with its output."""

    def __init__(self, address: str, stream: Path, *overrides: str, program: str = "-m clray") -> None:
        self.log = stream.parent / f"driver-{time.time_ns()}.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *program.split(), "run", str(stream), *overrides],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text()

    def finish(self, code: int = 0) -> str:
        """Its output, after it ended with that exit code."""
        self.process.wait(600)
        assert self.process.returncode == code, f"exit code {self.process.returncode}, not {code}: {self.output}"
        return self.output

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        self.process.kill()
        self.process.wait()
