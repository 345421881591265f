"""A sweep whose trial is killed, then its driver: the same command ends with the same table, nothing trained twice."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from nodes import wait_for
from texts import texts, write_lines

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SWEEP = """
name: disturbed
stream:
  name: swept
  model: {{base: {model}}}
  storage: {folder}/store
  sequence_length: 64
  batch: {{size: 4}}
  stages:
    - {{name: one, kind: instruct, data: {folder}/one.jsonl, length: {{steps: 4}}}}
    - {{name: two, kind: instruct, data: {folder}/two.jsonl, length: {{steps: 4}}}}
tasks:
  - {{name: one, scorer: choice, limit: 8, data: {folder}/one-dev.jsonl}}
  - {{name: two, scorer: choice, limit: 8, data: {folder}/two-dev.jsonl}}
space:
  optimiser.learning_rate: [1e-4, 1e-2]
  method.replay: [{{kind: none}}, {{kind: random, share: 0.25}}]
objectives: [{{maximise: average_performance}}]
at_once: 1
"""


@pytest.fixture
def sweep(tiny_model, tmp_path):
    """The sweep's file; of eight stage trainings six are needed."""
    for seed, name in enumerate(("one", "two")):
        found = texts(60, most=20, seed=seed)
        for part, rows in (("", found[:40]), ("-dev", found[40:])):
            records = [{"instruction": name, "input": t, "output": t.split()[seed]} for t in rows]
            write_lines(tmp_path / f"{name}{part}.jsonl", records)
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(model=tiny_model, folder=tmp_path))
    return path


def start(sweep):
    """The command, in a process of its own with a cluster of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "clray", "sweep", str(sweep), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def reports(folder):
    """All reports in the journal, as (trial, stage)."""
    entries = [json.loads(path.read_text()) for path in folder.glob("store/sweeps/*/*/trials/*.json")]
    return {(entry["number"], report["stage"]) for entry in entries for report in entry["reports"]}


def generations(folder):
    """When each generation was made."""
    found = [json.loads(path.read_text()) for path in folder.glob("store/generations/*/generation.json")]
    return {record["key"]: record["created"] for record in found if record["index"]}


def trial_of(driver):
    """The process of the running trial."""
    for child in psutil.Process(driver.pid).children(recursive=True):
        if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Trial"):
            return child
    raise AssertionError("no trial runs")


def test_a_killed_trial_and_a_killed_driver_change_nothing(sweep, tmp_path):
    driver = start(sweep)
    wait_for(lambda: len(reports(tmp_path)) >= 1, 300)
    trial_of(driver).kill()
    wait_for(lambda: len(reports(tmp_path)) >= 3, 300)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = generations(tmp_path)
    assert 0 < len(before) < 6

    first = start(sweep)
    out, error = first.communicate(timeout=600)
    assert first.returncode == 0, error
    table = json.loads(out)
    assert table["finished"] and [trial["status"] for trial in table["trials"]] == ["complete"] * 4
    after = generations(tmp_path)
    assert len(after) == 6 and {key: after[key] for key in before} == before
    assert table["trainings"]["now"] == 6 - len(before)

    for entry in tmp_path.glob("store/sweeps/*/*/trials/*.json"):
        entry.unlink()
    again = start(sweep)
    out, error = again.communicate(timeout=600)
    assert again.returncode == 0, error
    assert json.loads(out)["trials"] == table["trials"], "without a journal the table is made again from the store"
    assert json.loads(out)["trainings"]["now"] == 0 and generations(tmp_path) == after
