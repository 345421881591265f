"""The batch script for Slurm: clean shell, directives that Slurm knows, signals, and a stream on two nodes.

Slurm itself is not here: tests/cluster/slurm stands in for `srun` and `scontrol`. Ray and clray are the real ones in
the last test, on two nodes made of namespaces, so that the `ray stop` of Ray's launcher ends its own cluster alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).with_name("slurm")
STREAM = """
name: small
model: {base: builtin:llama, builtin: {vocab_size: 512, hidden_size: 32, layers: 2, heads: 2, max_positions: 128}}
compute: {workers: 2, micro_batch: 2}
sequence_length: 128
batch: {size: 4}
stages: [{name: keyword, kind: instruct, data: {source: "builtin:keyword", limit: 40}, length: {steps: 3}}]
"""


@pytest.fixture
def script(root: Path) -> Path:
    return root / "cluster" / "slurm" / "clray.sbatch"


def environment(stage: Path, venv: Path, **more: str) -> dict[str, str]:
    """What Slurm and a user set for the batch script."""
    return {
        "PATH": f"{SLURM}:{os.environ['PATH']}",
        "HOME": str(stage),
        "STAGE": str(stage),
        "CLRAY_VENV": str(venv),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "2",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def test_the_script_is_clean_shell(script: Path, shellcheck: str) -> None:
    for command in ([shellcheck, str(script)], ["bash", "-n", str(script)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_slurm_knows_the_directives(script: Path) -> None:
    head, _, body = script.read_text().partition("\nset -euo pipefail\n")
    assert "#SBATCH" not in body, "Slurm reads no directive behind the first command"
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", head, re.MULTILINE))
    assert set(directives) == {
        "job-name",
        "nodes",
        "ntasks-per-node",
        "gpus-per-node",
        "exclusive",
        "time",
        "signal",
        "requeue",
        "open-mode",
        "output",
    }
    assert directives["ntasks-per-node"] == "1", "one Ray node each"
    who, seconds = re.fullmatch(r"(B):TERM@(\d+)", directives["signal"]).groups()
    assert who == "B" and int(seconds) >= 120


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A virtual environment whose `ray` runs the command here, and whose `clray` takes a checkpoint when asked."""
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'PATH={binaries}:"$PATH"\n')
    (binaries / "ray").write_text(
        "#!/usr/bin/env bash\n"
        "[[ $1 == symmetric-run ]] || exit 0\n"
        'echo "$@" > "$STAGE/ray"\n'
        "[[ ${RAY_BROKEN:-} ]] && exit 0\n"
        'while [[ $1 != -- ]]; do shift; done; shift; "$@"\n'
    )
    (binaries / "clray").write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo checkpoint >> \"$STAGE/clray\"; exit 130' TERM\n"
        'echo "$RAY_ADDRESS $*" > "$STAGE/clray"\n'
        "[[ ${CLRAY_STATUS:-} ]] && exit $CLRAY_STATUS\n"
        "while true; do sleep 0.1; done\n"
    )
    for file in binaries.iterdir():
        file.chmod(0o755)
    return binaries.parent


def start(script: Path, stage: Path, venv: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(script), "stream.yaml", "seed=1"],
        env=environment(stage, venv, **more),
        cwd=stage,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_before_the_time_limit_the_driver_saves_and_the_job_is_queued_again(script, stand_in, tmp_path) -> None:
    batch = start(script, tmp_path, stand_in)
    deadline = time.monotonic() + 30
    while not (tmp_path / "clray").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    batch.send_signal(signal.SIGTERM)
    output, _ = batch.communicate(timeout=30)
    first, second = (tmp_path / "clray").read_text().splitlines()
    address, *arguments = first.split()
    assert arguments == ["run", "stream.yaml", "seed=1"]
    assert address in (tmp_path / "ray").read_text()
    assert second == "checkpoint", output
    assert (tmp_path / "scontrol").read_text() == f"requeue {os.getpid()}\n"
    assert batch.returncode == 130


@pytest.mark.parametrize("status", ["0", "2"])
def test_the_jobs_exit_code_is_clrays_and_nothing_is_queued_again(script, stand_in, tmp_path, status: str) -> None:
    batch = start(script, tmp_path, stand_in, CLRAY_STATUS=status)
    output, _ = batch.communicate(timeout=30)
    assert batch.returncode == int(status), output
    assert not (tmp_path / "scontrol").exists()


def test_a_ray_that_does_not_start_is_a_failure(script, stand_in, tmp_path) -> None:
    """`ray symmetric-run` ends with 0 where it could not start Ray (2.60)."""
    batch = start(script, tmp_path, stand_in, RAY_BROKEN="yes")
    output, _ = batch.communicate(timeout=30)
    assert batch.returncode == 1
    assert "Ray did not start clray" in output


@pytest.mark.fault
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_stream_runs_on_two_nodes(script, isolated, tmp_path: Path) -> None:
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here to join two nodes")
    (tmp_path / "stream.yaml").write_text(STREAM)
    command = [*isolated, "bash", str(SLURM / "two_nodes.sh"), "bash", str(script), "stream.yaml"]
    settings = environment(tmp_path, Path(sys.prefix), RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1")
    try:
        done = subprocess.run(
            [*command, f"storage={tmp_path}/store"], env=settings, cwd=tmp_path, capture_output=True, text=True
        )
    finally:
        shutil.rmtree(f"/tmp/clray-{os.getpid()}", ignore_errors=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    generations = [path for path in (tmp_path / "store" / "generations").glob("*/generation.json")]
    assert len(generations) == 2, "the base model and the stage's"
    assert "On worker node" in (tmp_path / "node1.log").read_text()
    assert (tmp_path / ".ray" / "auth_token").is_file(), "with token authentication"
    assert [(tmp_path / f"node{n}.left").read_text().strip() for n in (0, 1)] == ["0", "0"]
