"""Whatever is done to a run, the same command ends in the same bits."""

import contextlib
import os
import signal
import subprocess

import pytest

from looking import Clock, Look
from nodes import Driver, end, training_workers, wait_for

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

DIES_WHILE_REGISTERING = """
import os, signal, sys
from clray.lineage.mlflow_experiment import Experiment

Experiment.register = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from clray.cli import main

main()
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB of this test's own; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk):
    """Takes all space that is left on the disk."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while out.write(b"x" * 65536):
            pass
    return ballast


def test_killed_at_every_turn(nodes, reference, write_stream, tmp_path, reliability):
    """Training killed -9, stopped by SIGTERM, resumed from a truncated checkpoint with an altered shard and a killed
    worker, killed in registration and in evaluation: each time the same command again."""
    stream, look = write_stream(tmp_path), Look(tmp_path)

    driver = Driver(nodes.address, stream)
    before = look.reaches(10)
    driver.kill()
    lost = Clock()
    driver = Driver(nodes.address, stream)
    took = lost.until(lambda: look.step() > before)
    rows = [("driver killed -9 in training", "same command goes on at the checkpoint", took)]

    before = look.reaches(before + 15)
    os.kill(driver.process.pid, signal.SIGTERM)
    lost = Clock()
    said = driver.finish(143)
    assert "saved after step" in said and "run the same command again" in said
    assert look.step() > before
    before = look.step()

    newest = look.checkpoints()[-1] / "state-00000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    shard = next(tmp_path.glob("store/mixtures/*/part-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    lost = Clock()
    driver = Driver(nodes.address, stream)
    took = lost.until(lambda: look.step() > before)
    rows.append(("SIGTERM to the driver", "saves a checkpoint, exit code 143; same command goes on", took))
    rows.append(("newest checkpoint truncated", "named; the one before is taken", took))
    rows.append(("byte flipped in a shard", "named; the mixture is made again", took))
    assert f"{newest.parent.name} is not used: {newest.name} is missing or altered" in driver.output
    assert f"{shard.name} is missing or altered; the set is made again" in driver.output

    before = look.reaches(before + 10)
    worker = next(w for node in nodes.workers for w in training_workers(node))
    worker.kill()
    lost = Clock()
    took = lost.until(lambda: look.step() > before)
    rows.append(("training worker killed -9", "the group starts again by itself and goes on at the checkpoint", took))
    wait_for(look.generation)
    end(driver.process)

    script = tmp_path / "dies.py"
    script.write_text(DIES_WHILE_REGISTERING)
    Driver(nodes.address, stream, program=str(script)).finish(-signal.SIGKILL)
    lost = Clock()
    driver = Driver(nodes.address, stream)
    scores = tmp_path / "store/scores" / look.generation()["key"]
    took = lost.until(lambda: list(scores.glob("*.json")))
    rows.append(("driver killed -9 in registration", "registration is completed, exactly once", took))
    driver.kill()
    cells = {p: p.stat().st_mtime_ns for p in tmp_path.glob("store/scores/*/*.json")}

    lost = Clock()
    driver = Driver(nodes.address, stream)
    said = driver.finish()
    rows.append(("driver killed -9 in evaluation", "goes on at the first cell that is missing", took))
    assert "0 of 1 generations trained now" in said
    assert cells == {p: p.stat().st_mtime_ns for p in cells}, "a cell was measured twice"
    assert len(list(tmp_path.glob("store/scores/*/*.json"))) == 4

    assert look.generation()["files"] == reference.generation()["files"]
    assert look.losses() == reference.losses()
    assert not (tmp_path / "store/checkpoints" / look.generation()["key"]).exists()
    versions = recorded(f"sqlite:///{tmp_path}/mlflow.db")
    assert [v.tags["clray.index"] for v in versions] == ["0", "1"]
    for row in rows:
        reliability(*row, "bit-equal")


def recorded(tracking):
    """The registered versions of the stream, oldest first."""
    from mlflow import MlflowClient

    versions = MlflowClient(tracking, tracking).search_model_versions("name='fault'")
    return sorted(versions, key=lambda v: int(v.version))


def test_storage_full(nodes, reference, write_stream, small_disk, tmp_path, reliability):
    """Checkpoints fail and training goes on; the weights fail: exit code 2, nothing half-written; with space again
    the same command ends in the same bits."""
    stream, look = write_stream(tmp_path), Look(small_disk)
    where = f"storage={small_disk}/store"
    driver = Driver(nodes.address, stream, where)
    look.reaches(20)
    ballast = fill(small_disk)
    said = driver.finish(2)
    assert "checkpoint not saved: storage" in said and "is full: no room for generations/" in said
    assert look.generation() is None
    ballast.unlink()
    lost, before = Clock(), look.step()
    driver = Driver(nodes.address, stream, where)
    took = lost.until(lambda: look.step() > before or look.generation())
    driver.finish()
    assert look.generation()["files"] == reference.generation()["files"]
    reliability("storage full", "one message, exit code 2; with space again it goes on", took, "bit-equal")


def test_two_drivers_at_once(nodes, reference, write_stream, tmp_path, reliability):
    """The second waits for the first, names it, and takes its generation; another is refused without waiting."""
    stream, look = write_stream(tmp_path), Look(tmp_path)
    first = Driver(nodes.address, stream)
    look.reaches(5)
    training = [worker for node in nodes.workers for worker in training_workers(node)]
    for worker in training:
        worker.suspend()
    key = look.checkpoints()[0].parent.name[:10]
    second = Driver(nodes.address, stream)
    said = Driver(nodes.address, stream, "--no-wait").finish(2)
    assert f"text (generation {key}) is being built by process {first.process.pid}" in said
    wait_for(lambda: "waiting for it" in second.output)
    for worker in training:
        worker.resume()
    first.finish()
    said = second.finish()
    assert f"being built by process {first.process.pid}" in said and "0 of 1 generations trained now" in said
    assert look.generation()["files"] == reference.generation()["files"]
    assert [v.tags["clray.index"] for v in recorded(f"sqlite:///{tmp_path}/mlflow.db")] == ["0", "1"]
    reliability("two drivers at once", "the second waits for the first, names it, trains nothing", "0 s", "bit-equal")


def test_world_size_changes(nodes, reference, write_stream, tmp_path, reliability):
    """One worker, then two, then one again, each going on where the other was killed: the same losses."""
    stream, look, lost = write_stream(tmp_path), Look(tmp_path), []
    driver, before = None, 0
    for workers in (1, 2, 1):
        clock = Clock()
        driver = Driver(nodes.address, stream, f"compute.workers={workers}")
        lost.append(clock.until(lambda step=before: look.step() > step))
        before = look.reaches(before + 15)
        if len(lost) < 3:
            driver.kill()
    driver.finish()
    assert look.losses() == pytest.approx(reference.losses(), rel=1e-4)
    worst = max(abs(a - b) / b for a, b in zip(look.losses(), reference.losses(), strict=True))
    equal = f"losses equal within {worst:.1e}"
    reliability("one worker, killed; two go on", "state is read by name, the global batch stays", lost[1], equal)
    reliability("two workers, killed; one goes on", "state is read by name, the global batch stays", lost[2], equal)
