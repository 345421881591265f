"""A sweep on real Ray: trials share what they have in common, a rerun trains nothing, the best is a full cache hit."""

import json

import pytest

from clray.cli import app
from clray.errors import SpecError
from clray.lineage.mlflow_store import default_tracking, library
from clray.lineage.store import Store
from clray.planner import make_plan
from clray.search.driver import run
from clray.search.journal import COMPLETE, FAILED, RUNNING, Journal
from clray.search.planning import plan_sweep
from clray.spec import loading, sweep_loading
from texts import texts, write_lines

STAGES = ("one", "two", "three")


class Looking:
    """A watcher that only remembers."""

    def __init__(self):
        self.said, self.entries = [], []

    def say(self, text):
        self.said.append(text)

    def begins(self, plan, entries):
        self.said.append(plan.to_dict())

    def reported(self, entry):
        self.entries.append(entry)


@pytest.fixture(scope="module")
def sweep(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for seed, name in enumerate(STAGES):
        found = texts(60, most=20, seed=seed)
        for part, rows in (("train", found[:40]), ("dev", found[40:50]), ("test", found[50:])):
            records = [{"instruction": name, "input": t, "output": t.split()[seed % 2]} for t in rows]
            write_lines(folder / f"{name}-{part}.jsonl", records)
    task = "{{name: {0}, scorer: choice, limit: 8, data: {1}/{0}-{2}.jsonl}}"
    tasks = {part: ", ".join(task.format(n, folder, part) for n in STAGES) for part in ("dev", "test")}
    stages = ", ".join(
        f"{{name: {n}, kind: instruct, data: {folder}/{n}-train.jsonl, length: {{steps: 2}}}}" for n in STAGES
    )
    return sweep_loading.loads(f"""
name: shares
stream:
  name: swept
  model: {{base: {tiny_model}}}
  storage: {folder}/store
  sequence_length: 64
  batch: {{size: 4}}
  optimiser: {{learning_rate: 1e-3}}
  stages: [{stages}]
  tasks: [{tasks["test"]}]
tasks: [{tasks["dev"]}]
space:
  method.replay: [{{kind: none}}, {{kind: random, share: 0.25}}]
  stages.three.optimiser.learning_rate: [1e-4, 1e-2]
objectives: [{{maximise: average_performance}}, {{minimise: forgetting_max}}]
constraints: [tokens >= 1]
""")


def changed(sweep, **fields):
    """The sweep with other values of some fields."""
    return sweep_loading.validate({**sweep_loading.dump(sweep), **fields})


@pytest.fixture(scope="module")
def ran(sweep, ray_cluster):
    watch = Looking()
    return run(sweep, watch), watch


def test_what_was_tuned_on_test_is_refused(sweep):
    value = sweep_loading.dump(sweep)
    cheating = sweep_loading.validate({**value, "tasks": value["stream"]["tasks"]})
    with pytest.raises(SpecError, match="reads the same file as task 'one' of the stream"):
        plan_sweep(cheating)


def test_a_metric_that_no_trial_will_have_is_refused(sweep):
    value = {**sweep_loading.dump(sweep), "objectives": [{"maximise": "relative_gain"}]}
    with pytest.raises(SpecError, match=r"set stream\.experts=true"):
        plan_sweep(sweep_loading.validate(value))


def test_the_plan_counts_trainings_and_orders_trials_by_what_they_share(sweep, capsys, tmp_path):
    """The order is that of the grid: both of a kind of replay follow each other, and share two stages."""
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_loading.to_yaml(sweep))
    with pytest.raises(SystemExit) as ended:
        app(["plan", str(path), "--json", "at_once=1"])
    assert ended.value.code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trials"] == 4 and plan["at_once"] == 1
    assert (plan["trainings"]["alone"], plan["trainings"]["needed"]) == (12, 7)
    assert [s["method.replay"]["kind"] for s in plan["settings"]] == ["none", "none", "random", "random"]


def test_rungs_of_stages_are_beginnings_of_the_full_trial_and_those_of_length_are_not(sweep):
    """A third of three stages is one, two thirds are two. Of two steps a half is one: other generations."""
    stages = plan_sweep(changed(sweep, fidelity={"of": "stages", "shares": [0.33, 0.66]}))
    chains = [rung.chain for rung in stages.trials[0].rungs]
    assert [len(chain) for chain in chains] == [1, 2, 3] and chains[2][:2] == chains[1]
    assert stages.at_most and stages.trainings.needed == 7
    length = plan_sweep(changed(sweep, fidelity={"of": "length", "shares": [0.5]}))
    assert not set(length.trials[0].rungs[0].chain) & set(length.trials[0].rungs[1].chain)
    assert length.trainings.needed == 14


def test_of_optunas_trials_a_bound_is_known_and_every_value_is_checked(sweep):
    pytest.importorskip("optuna")
    search = {"kind": "optuna", "trials": 5}
    plan = plan_sweep(changed(sweep, search=search))
    assert plan.at_most and plan.trainings.alone == plan.trainings.needed == 15
    wrong = {"stages.three.optimiser.learning_rate": {"values": [1e-3, -1.0]}}
    with pytest.raises(SpecError, match="learning_rate -1 of sweep 'shares'"):
        plan_sweep(changed(sweep, search=search, space=wrong))


@pytest.mark.ray
@pytest.mark.slow
def test_trials_train_what_they_share_once(ran, sweep):
    """One first stage (replay of nothing is none), two second ones, four third ones: 7 of 12."""
    result, watch = ran
    plan = watch.said[0]
    assert plan["trainings"] == {"at_most": False, "alone": 12, "needed": 7, "saved": 5, "there": 0, "left": 7}
    assert result.trainings.alone == 12 and result.trainings.left == 7 and result.finished
    generations = list(Store(sweep.stream.storage).generations())
    assert sum(one.index > 0 for one in generations) == 7
    assert [entry.status for entry in result.entries] == [COMPLETE] * 4
    assert {entry.stage for entry in watch.entries} == {1, 2, 3}


@pytest.mark.ray
@pytest.mark.slow
def test_a_rerun_trains_nothing_and_has_the_same_table(ran, sweep):
    result, _ = ran
    again = run(sweep, Looking())
    assert again.trainings.left == 0 and again.to_dict()["trials"] == result.to_dict()["trials"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_was_killed_in_a_trial_goes_on_to_the_same_table(ran, sweep):
    """The driver died after the second report of one trial, and before another one had begun."""
    result, _ = ran
    store, folder = result.plan.store, result.plan.folder
    for name, reports in (("0-0001", 2), ("0-0002", 0)):
        entry = store.read_json(f"{folder}/trials/{name}.json")
        left = {**entry, "status": RUNNING, "reports": entry["reports"][:reports]}
        store.write_json(f"{folder}/trials/{name}.json", left)
    watch = Looking()
    again = run(sweep, watch)
    assert again.trainings.left == 0
    assert again.to_dict()["trials"] == result.to_dict()["trials"]
    assert {entry.number for entry in watch.entries} == {1, 2}


@pytest.mark.ray
@pytest.mark.slow
def test_the_best_stream_is_a_full_cache_hit_and_is_compared_on_test(ran):
    result, _ = ran
    best = loading.load(f"{result.folder}/best.yaml")
    plan = make_plan(best)
    assert not plan.missing and not plan.missing_cells
    on_test = loading.load(f"{result.folder}/on_test.yaml")
    assert on_test.grid == {"seed": (0, 1, 2)} and list(on_test.controls) == ["default"]
    assert [task.data[0].source.rpartition("-")[2] for task in on_test.tasks] == ["test.jsonl"] * 3
    assert make_plan(on_test).lines[0].keys == plan.lines[0].keys
    page = Store(best.storage).read_bytes(f"{result.plan.folder}/sweep.html").decode()
    assert "7 stage trainings in place of 12" in page


@pytest.mark.ray
@pytest.mark.slow
def test_mlflow_has_a_run_for_the_sweep_and_a_nested_one_for_each_trial(ran):
    result, _ = ran
    client = library().MlflowClient(default_tracking(result.plan.store))
    experiment = client.get_experiment_by_name("swept")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    [parent] = [one for one in runs if "clray.sweep_digest" in one.data.tags]
    trials = [one for one in runs if "clray.trial" in one.data.tags]
    assert len(trials) == 4 and {one.data.tags["mlflow.parentRunId"] for one in trials} == {parent.info.run_id}
    assert sum("clray.key" in one.data.tags for one in runs) == 8, "base and seven generations, each once"
    for trial in trials:
        assert (
            len(client.get_run(trial.info.run_id).inputs.model_inputs) == 4
            and trial.data.params["stages.three.optimiser.learning_rate"]
        )
        history = client.get_metric_history(trial.info.run_id, "accuracy/average_performance")
        assert [point.step for point in history] == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {
        "sweep.html",
        "sweep.json",
        "best.yaml",
    }


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(sweep, ran):
    """One value of the space is a file whose only record cannot be trained on."""
    value = sweep_loading.dump(sweep)
    data = value["stream"]["stages"][2]["data"]
    source = data[0]["source"] if isinstance(data, list) else data
    broken = source.replace("three-train", "broken")
    with open(broken, "w") as file:
        file.write('{"instruction": "three"}\n')
    value["space"] = {"stages.three.data": {"values": [[{"source": source}], [{"source": broken}]]}}
    result = run(sweep_loading.validate({**value, "name": "fails"}), Looking())
    whole, failed = result.entries
    assert whole.status == COMPLETE and failed.status == FAILED and failed.stage == 2
    assert "broken.jsonl" in failed.why
    journal = Journal.read(result.plan.store, result.plan.folder)
    assert json.loads(json.dumps(result.to_dict()))["best"] == whole.number and len(journal.entries) == 2
