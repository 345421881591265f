"""Two trials race for one generation, a hundred times, through the conductor and the real lease: one build each, also
when the builder is killed in the middle of it."""

import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest

from clray import conductor
from clray.lineage import lease
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.planned import Line
from clray.search.trial import Listener, Unrecorded

RACES = 100
KILLED = 4
"""In every so many races whoever builds first is killed while it builds."""
PATIENCE_SECONDS = 60


def note(folder, text):
    """Adds a line to the race's log: short appends are whole."""
    with open(folder / "log", "a") as log:
        log.write(f"{text}\n")


def race(folder, key, killed, start):
    """What one trial does: follows a line of one stage, whose training is a few milliseconds of sleep."""

    def build(plan, line, planned, session, watch):
        note(folder, "begins")
        time.sleep(0.005)
        if killed and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        made = Generation(key=key, parent="base", index=1, stage_name="docs", base=key)
        plan.store.commit(made)
        note(folder, "built")
        return made

    conductor.build = build
    lease.POLL_SECONDS = 0.005
    planned = SimpleNamespace(key=key, stage=SimpleNamespace(name="docs"), index=1, round=None, gate=None)
    base = SimpleNamespace(generation=Generation(key="base", parent=None, index=0, stage_name="base", base="base"))
    line = Line(name="stream", stream=None, base=base, stages=(planned,))
    plan = SimpleNamespace(store=Store(str(folder.parent / "store")), lost=set(), tasks_of=lambda line, index: [])
    built = set()
    start.wait(PATIENCE_SECONDS)
    conductor.follow(plan, line, None, Unrecorded(), Listener(), True, built)
    note(folder, "took" if key not in built else "was the builder")


@pytest.mark.timeout(300)
def test_two_trials_race_for_one_generation(tmp_path):
    fork = multiprocessing.get_context("fork")
    for number in range(RACES):
        folder, killed = tmp_path / f"race-{number}", number % KILLED == 0
        folder.mkdir()
        start = fork.Barrier(2)
        trials = [fork.Process(target=race, args=(folder, f"key{number}", killed, start)) for _ in range(2)]
        for trial in trials:
            trial.start()
        for trial in trials:
            trial.join(PATIENCE_SECONDS)
        assert sorted(trial.exitcode for trial in trials) == ([-signal.SIGKILL, 0] if killed else [0, 0]), number
        log = (folder / "log").read_text().split("\n")
        assert log.count("built") == 1, f"race {number}: {log}"
        assert log.count("begins") == 1 + killed and log.count("was the builder") == 1, f"race {number}: {log}"
        assert log.count("took") == (0 if killed else 1), f"race {number}: {log}"
    assert len(Store(str(tmp_path / "store")).list("generations")) == RACES
