"""A pod that is told to go: the driver is asked to leave and waited for, a node stays while its training workers do.

The hooks end processes by their command lines, so they run where there are no processes but the test's.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import signal, sys, time
from pathlib import Path
def leave(*_):
    time.sleep(1)
    Path(sys.argv[-1]).write_text("checkpoint")
    sys.exit(130)
signal.signal(signal.SIGTERM, leave)
Path(sys.argv[-1]).write_text("running")
time.sleep(60)
"""


@pytest.fixture
def hooks(cluster_specs, pods) -> tuple[str, str]:
    """The shell text of the head's and of the workers' preStop."""
    found = []
    for spec in cluster_specs:
        commands = [pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] for pod in pods(spec)]
        assert all(command[:2] == ["/bin/bash", "-c"] for command in commands)
        head, *workers = (command[2] for command in commands)
        assert len(set(workers)) == 1
        found.append((head, workers[0]))
    assert found[0] == found[1]
    return found[0]


def run(isolated: list[str], script: str) -> subprocess.CompletedProcess[str]:
    alone = f"[[ $$ == 1 ]] || exit 99\n{script}"
    return subprocess.run([*isolated, "bash", "-c", alone], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("start", ["{python} {clray} run stream.yaml {note}", "cd . && {python} -m clray run {note}"])
def test_the_head_waits_for_the_drivers_checkpoint(isolated, hooks, tmp_path: Path, start: str) -> None:
    note, program = tmp_path / "note", tmp_path / "clray"
    program.write_text(DRIVER)
    (tmp_path / "clray.py").write_text(DRIVER)
    command = start.format(python=sys.executable, clray=program, note=note)
    script = f"""
        cd {tmp_path}
        sh -c {shlex.quote(command + "; true")} & shell=$!   # as Ray's job supervisor starts it
        until [[ -s {note} ]]; do sleep 0.1; done
        bash -c {shlex.quote(hooks[0])}
        cat {note}
        wait $shell && echo " and Ray's shell went last"
    """
    done = run(isolated, script)
    assert done.stdout == "checkpoint and Ray's shell went last\n", done.stderr
    assert done.returncode == 0


def test_a_node_stays_while_its_training_workers_do(isolated, hooks) -> None:
    script = f"""
        bash -c 'exec -a ray::RayTrainWorker sleep 1.5' & worker=$!
        sleep 0.3
        bash -c {shlex.quote(hooks[1])}
        kill -0 $worker 2> /dev/null && echo "left too early"
        echo gone
    """
    done = run(isolated, script)
    assert done.stdout == "gone\n", done.stderr


def test_an_idle_pod_goes_at_once(isolated, hooks) -> None:
    for hook in hooks:
        done = run(isolated, f"SECONDS=0; bash -c {shlex.quote(hook)}; echo $SECONDS")
        assert int(done.stdout) <= 1, done.stderr
