"""The contract in mlflow/SCHEMA.md against what a real run wrote, and the saved queries against the same store."""

import re
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from clray.lineage.ledger import default_tracking
from clray.lineage.mlflow_experiment import all_pages
from clray.lineage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FOLDER = Path(__file__).resolve().parents[2] / "mlflow"
SOMETIMES = {
    *("clray.alias.<alias>.<n>", "clray.gate", "clray.gate_why"),
    *("clray.sweep", "clray.sweep_digest", "clray.trial", "clray.trial_status"),
    *(f"train/{name}" for name in ("reward_margin", "reward_accuracy", "chosen_log_prob", "rejected_log_prob")),
    *("system/...", "peak_device_bytes", "cpu_joules", "gpu_joules"),
}
"""Names that a run without promotions, gates, sweeps and preferences does not write, on a machine without counters."""


@pytest.fixture
def client(storage):
    return MlflowClient(default_tracking(Store(storage)))


@pytest.fixture
def runs(client):
    experiment = client.get_experiment_by_name("told").experiment_id
    return list(all_pages(client.search_runs, experiment_ids=[experiment]))


def contract(heading: str) -> list[str]:
    """The names in backticks of the first column of a section's table."""
    section = (FOLDER / "SCHEMA.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def pattern(name: str) -> str:
    """What names the contract's name stands for: <...> is anything, as is ... at the end."""
    return re.sub(r"<[^<>]+>|\\\.\\\.\\\.$", ".+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">"))


def kept(written: set[str], names: list[str]) -> None:
    """Everything written stands in the contract, and everything in the contract was written."""
    unknown = {name for name in written if not any(re.fullmatch(pattern(each), name) for each in names)}
    missing = {each for each in names if not any(re.fullmatch(pattern(each), name) for name in written)}
    assert not unknown and not missing - SOMETIMES, (unknown, missing)


def test_tags(client, runs):
    experiment = client.get_experiment_by_name("told").experiment_id
    holders = [run.data for run in runs]
    holders += [*client.search_logged_models([experiment]), *client.search_model_versions("name = 'told'")]
    holders += client.search_registered_models("name = 'told'")
    kept({tag for each in holders for tag in each.tags if tag.startswith("clray.")}, contract("Tags"))
    own = {tag for each in holders for tag in each.tags if not tag.startswith("clray.")}
    section = (FOLDER / "SCHEMA.md").read_text(encoding="utf-8")
    assert not {tag for tag in own if f"`{tag}`" not in section}, own


def test_metrics(runs):
    kept({name for run in runs for name in run.data.metrics}, contract("Metrics"))


def test_aliases(client):
    [model] = client.search_registered_models("name = 'told'")
    assert set(model.aliases) == {"newest"} and "newest" in contract("Aliases")


def test_parameters_inputs_and_artifacts(client, runs, outcome):
    text = (FOLDER / "SCHEMA.md").read_text(encoding="utf-8").split("## Parameters")[1]
    files, contexts = set(), set()
    for run in runs:
        files |= {file.path for file in client.list_artifacts(run.info.run_id)}
        contexts |= {tag.value for each in run.inputs.dataset_inputs for tag in each.tags}
    assert not {name for name in files if f"`{name}`" not in text} and contexts == {"training", "replay"}
    made = outcome.line.generations[3]
    [run] = [run for run in runs if run.data.tags.get("clray.key") == made.key]
    assert {name.partition(".")[0] for name in run.data.params} <= set(made.stage)
    assert run.data.params["optimiser.learning_rate"] == "0.003"
    whole = client.get_run(run.info.run_id)  # a search leaves model inputs out
    assert len(whole.inputs.model_inputs) == len(whole.outputs.model_outputs) == 1


@pytest.mark.parametrize("query", yaml.safe_load((FOLDER / "queries.yaml").read_text()), ids=lambda q: q["question"])
def test_a_saved_query_finds_what_it_asks_for(client, runs, outcome, keys, query):
    metric, filled = outcome.matrix.metrics["first"], query["filter"]
    [run] = [run for run in runs if run.data.tags.get("clray.key") == keys[2]]
    for name, value in {
        "stage": "text", "stream": "told", "key": keys[2], "task": "first", "metric": metric,
        "data_digest": run.data.tags["clray.data_digest"],
    }.items():  # fmt: skip
        filled = filled.replace(f"<{name}>", value)
    experiment = [client.get_experiment_by_name("told").experiment_id]
    search = {
        "runs": lambda: client.search_runs(experiment, filled),
        "versions": lambda: client.search_model_versions(filled),
        "models": lambda: client.search_logged_models(experiment, filled),
    }[query["search"]]
    assert bool(search()) == (query.get("expect") != "none"), filled
