"""A sweep from plan to page with stages that are not trained: rungs, stopping, proposals, failures, records."""

import hashlib
import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from clray.errors import DataError
from clray.lineage.generation import Generation
from clray.lineage.mlflow_store import library
from clray.planner import make_plan
from clray.search import driver
from clray.search.driver import run
from clray.search.journal import COMPLETE, FAILED, STOPPED
from clray.search.trial import Trial
from clray.spec import loading, sweep_loading
from texts import texts, write_lines

STAGES = ("one", "two", "three")
DATA = {"digest": "d", "rows": 1, "tokens": 1, "targets": 1, "origins": [], "records": [], "sources": []}


class Looking:
    """A watcher that only remembers."""

    def __init__(self):
        self.entries = []

    def say(self, text):
        raise AssertionError(text)

    def begins(self, plan, entries):
        self.before = list(entries)

    def reported(self, entry):
        self.entries.append(entry)


class Untrained(Trial):
    """A trial whose generations are records without weights. What replays scores 0.1, all else 0.9, and a little that
    depends on key and task."""

    trained: ClassVar[list[str]] = []

    def __init__(self, config):
        self._iteration = 0
        self.setup(config)

    def _make(self, part, built, watch):
        line = part.lines[0]
        if line.stages[-1].recipe.resolved["optimiser"]["learning_rate"] > 1:
            raise DataError("this rate is a mistake")
        for index, stage in enumerate(line.stages, 1):
            if part.store.generation(stage.key) is None:
                training = {"seconds": 2.0, "workers": 1, "tokens": 100, "flops": 1e6}
                part.store.commit(
                    Generation(
                        key=stage.key,
                        parent=stage.parent,
                        index=index,
                        stage_name=stage.stage.name,
                        base=stage.key,
                        stage=stage.recipe.resolved,
                        training=training,
                        data=DATA,
                        created=f"2026-01-01T00:00:{index:02d}+00:00",
                    )
                )
                built.add(stage.key)
                self.trained.append(stage.key)
        for key, replays in zip(line.keys, (False, *(stage.recipe.replays for stage in line.stages)), strict=True):
            for task in part.tasks:
                chance = int(hashlib.sha256(f"{key}{task.digest}".encode()).hexdigest()[:6], 16) / 2**24
                metrics = {"accuracy": (0.1 if replays else 0.9) + 0.05 * chance}
                part.store.write_score(
                    key, task.digest, {"task": task.task.name, "scorer": "choice", "metrics": metrics}
                )
        return line


def in_turn(plan, journal, rung, searcher, wanted, told, started):
    """What Tune does with one actor: trial after trial, step after step."""
    judge, actor = driver.Judge(plan.sweep, journal, rung, plan.num_stages, told), None
    while (config := searcher.suggest("trial")) != "FINISHED":
        if actor is None:
            actor = Untrained(config)
        assert actor.reset_config(config)
        actor._iteration, trial, decision = 0, SimpleNamespace(config=config), "CONTINUE"
        while decision != "STOP":
            result = actor.step()
            actor._iteration += 1
            decision = "STOP" if result["done"] else judge.on_trial_result(None, trial, result)
        judge.on_trial_complete(None, trial, result)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """One MLflow for all tests: its schema takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def sweep(tiny_model, tmp_path, monkeypatch, tracking):
    monkeypatch.setattr(driver, "_tune", in_turn)
    monkeypatch.setattr(Untrained, "trained", [])
    for seed, name in enumerate(STAGES):
        records = [{"instruction": name, "input": t, "output": t.split()[0]} for t in texts(9, most=9, seed=seed)]
        for part in ("train", "dev"):
            write_lines(tmp_path / f"{name}-{part}.jsonl", [{**r, "instruction": part} for r in records])
    tasks = ", ".join(f"{{name: {n}, scorer: choice, data: {tmp_path}/{n}-dev.jsonl}}" for n in STAGES)
    stages = ", ".join(f"{{name: {n}, kind: instruct, data: {tmp_path}/{n}-train.jsonl}}" for n in STAGES)
    return sweep_loading.loads(f"""
name: dry
stream:
  name: {tmp_path.name}
  tracking: {tracking}
  model: {{base: {tiny_model}}}
  storage: {tmp_path}/store
  sequence_length: 64
  stages: [{stages}]
tasks: [{tasks}]
space:
  method.replay: [{{kind: none}}, {{kind: random, share: 0.25}}]
  stages.three.optimiser.learning_rate: [1e-4, 1e-3, 1e-2]
objectives: [{{maximise: average_performance}}]
""")


def changed(sweep, **fields):
    return sweep_loading.validate({**sweep_loading.dump(sweep), **fields})


def test_a_grid_is_run_shared_recorded_and_run_again_from_its_journal(sweep):
    """One first stage, two second ones, six third ones are 9 of 18."""
    watch = Looking()
    result = run(sweep, watch)
    assert len(Untrained.trained) == len(set(Untrained.trained)) == 9
    assert (result.trainings.alone, result.trainings.needed, result.trainings.left) == (18, 9, 9)
    values = [score.values[0] for score in result.scores]
    assert values == sorted(values, reverse=True) and result.best is result.entries[0]
    plan = make_plan(loading.load(f"{result.folder}/best.yaml"))
    assert not plan.missing and not plan.missing_cells

    client = library().MlflowClient(sweep.stream.tracking)
    experiment = client.get_experiment_by_name(sweep.stream.name).experiment_id
    runs = client.search_runs([experiment], max_results=100)
    trials = [one for one in runs if "clray.trial" in one.data.tags]
    assert len(trials) == 6 and len({one.data.tags["mlflow.parentRunId"] for one in trials}) == 1
    assert sum("clray.key" in one.data.tags for one in runs) == 10, "base and nine generations, each once"
    assert {len(client.get_run(one.info.run_id).inputs.model_inputs) for one in trials} == {4}

    again = run(sweep, Looking())
    assert again.to_dict()["trials"] == result.to_dict()["trials"] and again.trainings.left == 0
    assert len(Untrained.trained) == 9
    assert len(client.search_runs([experiment], max_results=100)) == len(runs)


def test_asha_stops_trials_between_stages(sweep):
    """The three trials that replay come last and are worse at stage 2: their third stages are not trained."""
    result = run(changed(sweep, stopping={"kind": "asha", "grace": 2}), Looking())
    stopped = [entry for entry in result.entries if entry.status == STOPPED]
    assert [entry.stage for entry in stopped] == [2, 2, 2] and result.finished
    assert len(Untrained.trained) == 3 + 3
    assert "stopped after stage 2 of 3 by asha" in json.dumps(result.to_dict())


@pytest.mark.parametrize("of", ["stages", "length"])
def test_the_best_half_of_a_rung_goes_on_in_full(sweep, of):
    """Rungs of a third of the stages share their generation with the full trials; those of length do not."""
    watch = Looking()
    result = run(changed(sweep, fidelity={"of": of, "shares": [0.34]}), watch)
    full = [entry for entry in result.entries if entry.rung == 1]
    assert len(full) == 3 and all(entry.status == COMPLETE for entry in result.entries) and result.finished
    assert {entry.last["of"] for entry in watch.entries if entry.rung == 0} == {2 if of == "stages" else 3}
    assert result.best.rung == 1
    again = run(changed(sweep, fidelity={"of": of, "shares": [0.34]}), Looking())
    assert again.to_dict()["trials"] == result.to_dict()["trials"]


def test_optuna_goes_on_with_the_same_proposals(sweep):
    pytest.importorskip("optuna")
    space = {"optimiser.learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"}}
    asked = changed(sweep, space=space, search={"kind": "optuna", "trials": 6, "startup": 2})
    result = run(asked, Looking())
    assert len(result.entries) == 6 and result.finished
    for number in (4, 5):
        result.plan.store.delete(f"{result.plan.folder}/trials/0-{number:04d}.json")
    again = run(asked, Looking())
    assert again.to_dict()["trials"] == result.to_dict()["trials"] and again.trainings.left == 0


def test_a_mistake_of_one_trial_is_recorded_and_can_be_tried_again(sweep):
    asked = changed(sweep, space={"stages.three.optimiser.learning_rate": {"values": [1e-3, 2.0]}})
    result = run(asked, Looking())
    whole, failed = result.entries
    assert (whole.status, failed.status, failed.stage) == (COMPLETE, FAILED, 2)
    assert failed.why == "this rate is a mistake" and result.best is whole
    watch = Looking()
    run(asked, watch)
    assert not watch.entries
    run(asked, watch, retry_failed=True)
    assert [entry.status for entry in watch.entries] == [FAILED]


def test_without_a_trial_that_keeps_the_constraints_there_is_no_best(sweep):
    result = run(changed(sweep, constraints=["average_performance >= 2"]), Looking())
    assert result.best is None and result.finished and "best.yaml" not in result.plan.store.list(result.plan.folder)
