"""The ledger on real SQLite files and a real server: written once, whatever is interrupted."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from clray.errors import StorageError
from clray.lineage.generation import Generation
from clray.lineage.ledger import NEWEST, Ledger, default_tracking, redact
from clray.lineage.store import Store
from servers import free_port

STREAM = "news"
WEIGHTS = "s3://id:hunter2@bucket/generations/weights"
CURVE = [
    {"step": n, "loss": 4.0 - n, "learning_rate": 0.1 * n, "tokens": 10 * n, "tokens_per_second": 100.0}
    for n in (1, 2, 3)
]
RESOLVED = {
    "name": STREAM,
    "description": "Two stages.",
    "seed": 7,
    "tracking": "http://ann:hunter2@host",
    "stages": [{"name": "dbpedia"}, {"name": "agnews"}],
    "method": {"adapter": {"kind": "lora", "rank": 8}, "replay": None},
}
WRITES = (
    "create_run", "log_batch", "log_inputs", "log_outputs", "log_artifacts", "create_logged_model", "set_tag",
    "finalize_logged_model", "create_registered_model", "create_model_version", "set_terminated",
    "set_registered_model_alias",
)  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


def base() -> Generation:
    return Generation(
        key="0" * 32,
        parent=None,
        index=0,
        stage_name="base",
        base="0" * 32,
        created="2026-01-01T00:00:00+00:00",
    )


def generation(key: str, parent: str | None = "0" * 32, index: int = 1, stage: str = "agnews") -> Generation:
    return Generation(
        key=key,
        parent=parent,
        index=index,
        stage_name=stage,
        base=key,
        created=f"2026-01-0{index + 1}T00:00:00+00:00",
        stage={
            "kind": "instruct",
            "method": {"replay": {"share": 0.1}},
            "data": [{"source": "s3://id:hunter2@b/x"}],
        },
        data={
            "digest": f"d{key[1:]}",
            "rows": 12,
            "tokens": 300,
            "targets": 200,
            "origins": [
                {"stage": stage, "rows": 90, "tokens": 250, "targets": 170},
                {"stage": "dbpedia", "rows": 10, "tokens": 50, "targets": 30},
                {"stage": "unused", "rows": 0, "tokens": 0, "targets": 0},
            ],
            "records": ["own", "past", "never"],
            "sources": [{"source": "builtin:news"}],
        },
        training={"steps": 3, "seconds": 2.0, "tokens": 300, "tokens_per_second": 150.0, "flops": 1e9},
    )


def open_stream(ledger: Ledger) -> str:
    return ledger.open_stream("5" * 32, STREAM, "tracking: http://ann:hunter2@host\n", RESOLVED)


def record(ledger: Ledger, made: Generation, run: str, **more: Any) -> str:
    curve = CURVE if made.parent else []
    return ledger.record(made, run, WEIGHTS, curve, {"receipt.json": {"seed": 1}, "spec.yaml": "a: 1\n"}, **more)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's schema, made once."""
    folder = tmp_path_factory.mktemp("blank")
    Ledger(f"sqlite:///{folder}/mlflow.db", STREAM).check()
    return folder / "mlflow.db"


@pytest.fixture
def uri(blank: Path, tmp_path: Path) -> str:
    shutil.copy(blank, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def server(tracking_server: str) -> str:
    """Address of a real server on loopback, with credentials that it does not ask for."""
    return tracking_server.replace("://", "://ann:hunter2@")


def everything(uri: str, key: str) -> dict[str, Any]:
    """What MLflow holds of a generation, counted."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(STREAM).experiment_id
    runs = client.search_runs([experiment], f"tags.`clray.key` = '{key}'")
    [run] = [client.get_run(found.info.run_id) for found in runs]
    return {
        "run": run,
        "versions": list(client.search_model_versions(f"name = '{STREAM}' and tags.`clray.key` = '{key}'")),
        "models": list(client.search_logged_models([experiment], f"tags.`clray.key` = '{key}'")),
        "losses": [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")],
        "inputs": [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs],
        "links": (len(run.inputs.model_inputs), len(run.outputs.model_outputs)),
        "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
    }


def assert_whole(uri: str, key: str, links: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Everything is there exactly once."""
    found = everything(uri, key)
    assert len(found["versions"]) == len(found["models"]) == 1
    assert found["losses"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found["inputs"] == [
        ("agnews mixture", f"d{key[1:]}", "training"), ("agnews", "own", "training"), ("dbpedia", "past", "replay"),
    ]  # fmt: skip
    assert found["links"] == links
    assert found["files"] == ["receipt.json", "spec.yaml"]
    assert found["run"].data.tags["clray.recorded"] == "true"
    assert found["run"].info.status == "FINISHED"
    return found


def test_a_generation_is_recorded_with_all_that_made_it(uri: str) -> None:
    ledger = Ledger(uri, STREAM)
    stream_run, made = open_stream(ledger), generation("a" * 32)
    assert (record(ledger, base(), stream_run), record(ledger, made, stream_run)) == ("1", "2")
    found = assert_whole(uri, made.key)
    run, [version], [model] = found["run"], found["versions"], found["models"]
    assert run.info.run_name == "1 agnews aaaaaaaaaa"
    assert run.info.end_time - run.info.start_time == 2000
    assert run.data.tags["mlflow.parentRunId"] == stream_run
    assert run.data.params == {
        "kind": "instruct", "method.replay.share": "0.1", "data.0.source": "s3://***@b/x",
    }  # fmt: skip
    assert run.data.metrics["tokens"] == 300 and run.data.metrics["flops"] == 1e9
    assert version.source == f"models:/{model.model_id}" and version.run_id == run.info.run_id
    assert version.tags == {
        "clray.key": made.key, "clray.parent": "0" * 32, "clray.parent_version": "1", "clray.stage": "agnews",
        "clray.index": "1", "clray.data_digest": f"d{made.key[1:]}",
        "clray.weights_uri": "s3://***@bucket/generations/weights",
    }  # fmt: skip
    assert "90 of agnews, 10 of dbpedia" in version.description
    text = Path(MlflowClient(uri).download_artifacts(run.info.run_id, "receipt.json")).read_text()
    assert json.loads(text) == {"seed": 1}


def test_a_second_recording_adds_nothing(uri: str) -> None:
    for _ in range(2):
        ledger = Ledger(uri, STREAM)
        run = open_stream(ledger)
        record(ledger, base(), run)
        assert record(ledger, generation("a" * 32), run) == "2"
        assert_whole(uri, "a" * 32)
    assert len(ledger.generations()) == 2


@pytest.mark.fault
def test_a_recording_killed_after_any_call_is_completed_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_stream(Ledger(uri, STREAM))
    record(Ledger(uri, STREAM), base(), run)
    calls = 0
    while True:
        calls, key = calls + 1, f"{calls + 1:032x}"
        with monkeypatch.context() as patch:
            left = kill_after(patch, calls)
            with contextlib.suppress(Killed):
                record(Ledger(uri, STREAM), generation(key), run)
        if left():
            break
        record(Ledger(uri, STREAM), generation(key), run)
        assert_whole(uri, key)
    assert calls > 10


@pytest.mark.fault
def test_the_first_recording_killed_after_the_registered_model_is_completed(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_stream(Ledger(uri, STREAM))
    with monkeypatch.context() as patch:
        kill_after(patch, 1, only="create_registered_model")
        with pytest.raises(Killed):
            record(Ledger(uri, STREAM), base(), run)
    assert record(Ledger(uri, STREAM), base(), run) == "1"


def kill_after(patch: pytest.MonkeyPatch, calls: int, only: str = "") -> Callable[[], bool]:
    """Raises Killed after that many writes were done; what comes back says whether there were fewer."""
    done = 0

    def dying(write: Any) -> Any:
        def inside(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            result = write(*args, **kwargs)
            done += 1
            if done == calls:
                raise Killed
            return result

        return inside

    for name in [only] if only else WRITES:
        patch.setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))
    return lambda: done < calls


def test_the_stream_has_one_run_with_its_settings(uri: str) -> None:
    run = open_stream(Ledger(uri, STREAM))
    Ledger(uri, STREAM).finish(run, "FAILED")
    assert open_stream(Ledger(uri, STREAM)) == run
    found = MlflowClient(uri).get_run(run)
    assert found.info.status == "RUNNING"
    assert found.data.params == {
        "seed": "7", "tracking": "http://***@host", "stages": "dbpedia, agnews", "method.adapter.kind": "lora",
        "method.adapter.rank": "8",
    }  # fmt: skip
    assert "hunter2" not in Path(MlflowClient(uri).download_artifacts(run, "spec.yaml")).read_text()


def test_changed_settings_that_make_the_same_generations_reopen_the_run(uri: str) -> None:
    run = open_stream(Ledger(uri, STREAM))
    assert Ledger(uri, STREAM).open_stream("5" * 32, STREAM, "", {**RESOLVED, "seed": 8}) == run


def test_scores_stand_on_the_generation_and_over_generations_on_the_stream(uri: str) -> None:
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    record(ledger, base(), run)
    record(ledger, generation("a" * 32), run)
    for _ in range(2):
        ledger.score("0" * 32, {"agnews": {"exact_match": 0.25, "n": 8}}, 0, {})
        ledger.score("a" * 32, {"agnews": {"exact_match": 0.5, "n": 8}}, 1, {"exact_match": {"bwt": -0.1}})
    client = MlflowClient(uri)
    own = client.get_run(everything(uri, "a" * 32)["run"].info.run_id).data.metrics
    assert own["score/agnews/exact_match"] == 0.5 and own["continual/exact_match/bwt"] == -0.1
    assert "score/agnews/n" not in own
    history = [(m.step, m.value) for m in client.get_metric_history(run, "score/agnews/exact_match")]
    assert sorted(history) == [(0, 0.25), (1, 0.5)]
    ledger.score("a" * 32, {"agnews": {"exact_match": 0.4}}, 1, {})
    assert client.get_run(run).data.metrics["score/agnews/exact_match"] == 0.4


def test_a_control_leaves_the_alias_and_the_scores_of_the_stream_alone(uri: str) -> None:
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    record(ledger, base(), run)
    record(ledger, generation("a" * 32), run)
    record(ledger, generation("c" * 32), run, latest=False)
    ledger.score("c" * 32, {"agnews": {"exact_match": 0.9}}, 1, {})
    assert "score/agnews/exact_match" not in MlflowClient(uri).get_run(run).data.metrics
    rows = {row["key"][0]: row for row in ledger.generations()}
    assert rows["a"]["aliases"] == [NEWEST] and rows["c"]["aliases"] == []
    assert rows["c"]["scores"] == {"agnews/exact_match": 0.9}
    assert (rows["a"]["parent"], rows["a"]["index"], rows["a"]["stage"], rows["a"]["version"]) == (
        "0" * 32,
        1,
        "agnews",
        "2",
    )


def test_the_alias_goes_to_a_new_branch_and_never_back_on_a_rerun(uri: str) -> None:
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    line = [base(), generation("a" * 32), generation("b" * 32, parent="a" * 32, index=2)]
    seen = [record(ledger, made, run) and newest(uri) for made in (*line, *line, generation("d" * 32))]
    assert seen == ["1", "2", "3", "3", "3", "3", "4"]


def newest(uri: str) -> str:
    return str(MlflowClient(uri, uri).get_model_version_by_alias(STREAM, NEWEST).version)


def test_environment_of_mlflow_does_not_matter(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    record(ledger, base(), run)
    record(ledger, generation("a" * 32), run)
    assert_whole(uri, "a" * 32)
    assert not (tmp_path / "other.db").exists()
    mlflow.set_tracking_uri(None)


def test_artifacts_lie_beside_the_file(uri: str, tmp_path: Path) -> None:
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "report.html").write_text("<p>report</p>")
    ledger.attach(run, tmp_path / "page" / "report.html")
    ledger.attach(run, tmp_path / "page")
    assert (tmp_path / "mlartifacts" / STREAM / run / "artifacts" / "report.html").read_text() == "<p>report</p>"


def test_system_metrics_go_to_the_run(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    ledger = Ledger(uri, STREAM)
    run = open_stream(ledger)
    with ledger.system_metrics(run):
        for _ in range(100):
            time.sleep(0.2)
            if "system/cpu_utilization_percentage" in MlflowClient(uri).get_run(run).data.metrics:
                break
    assert "system/cpu_utilization_percentage" in MlflowClient(uri).get_run(run).data.metrics


def test_a_real_server_records_the_same(server: str) -> None:
    for _ in range(2):
        ledger = Ledger(server, STREAM)
        ledger.check()
        run = open_stream(ledger)
        record(ledger, base(), run)
        record(ledger, generation("a" * 32), run)
        ledger.score("a" * 32, {"agnews": {"exact_match": 0.5}}, 1, {})
        ledger.finish(run, "FINISHED")
    assert_whole(server, "a" * 32)
    assert [row["aliases"] for row in ledger.generations()] == [[], [NEWEST]]
    assert ledger.generations()[1]["scores"] == {"agnews/exact_match": 0.5}


@pytest.mark.timeout(60)
def test_a_server_that_is_down_is_said_so_without_the_password() -> None:
    with pytest.raises(StorageError, match="Start the server") as caught:
        Ledger(f"http://ann:hunter2@127.0.0.1:{free_port()}", STREAM).check()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/x", "postgresql://ann:hunter2@host/db", "http://", "sqlite://"]
)
def test_another_uri_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="neither an MLflow server nor a SQLite file") as caught:
        Ledger(uri, STREAM).check()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all, but long enough to be read as one" * 10)
    with pytest.raises(StorageError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/mlflow.db", STREAM).check()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="unable to open"):
        Ledger(f"sqlite:///{tmp_path}/folder", STREAM).check()


def test_a_deleted_experiment_says_how_to_restore_it(uri: str) -> None:
    open_stream(Ledger(uri, STREAM))
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name(STREAM).experiment_id)
    with pytest.raises(StorageError, match="mlflow experiments restore"):
        open_stream(Ledger(uri, STREAM))


def test_a_score_of_an_unrecorded_generation_is_refused(uri: str) -> None:
    ledger = Ledger(uri, STREAM)
    open_stream(ledger)
    with pytest.raises(StorageError, match="is not recorded"):
        ledger.score("a" * 32, {}, 1, {})


def test_an_empty_module_in_the_place_of_mlflow_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    with pytest.raises(StorageError, match="folder or file named 'mlflow'"):
        Ledger(f"sqlite:///{tmp_path}/mlflow.db", STREAM).check()


def test_importing_the_ledger_does_not_import_mlflow() -> None:
    code = "import sys, clray.lineage.ledger; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_local_store_tracks_in_its_folder_and_a_remote_one_asks(tmp_path: Path) -> None:
    assert default_tracking(Store(str(tmp_path))) == f"sqlite:///{tmp_path}/mlflow.db"
    remote = Store("s3://bucket/store?region=eu-west-1&scheme=http")
    with pytest.raises(StorageError, match="tracking=http://HOST:5000"):
        default_tracking(remote)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("http://token@host", "http://***@host"),
        ("https://host/@scope/name", "https://host/@scope/name"),
        ("postgresql+psycopg2://u:p%40w@h/db?password=x", "postgresql+psycopg2://***@h/db?password=***"),
        (
            "s3://b/x?access_key=AK&secret_key=SK&region=eu",
            "s3://b/x?access_key=***&secret_key=***&region=eu",
        ),
        (
            '{"tracking": "http://a:b@h", "mail": "ann@host"}',
            '{"tracking": "http://***@h", "mail": "ann@host"}',
        ),
        ("failed: http://a:b@h/1 and s3://c:d@e", "failed: http://***@h/1 and s3://***@e"),
    ],
)
def test_secrets_in_uris_are_left_out(text: str, safe: str) -> None:
    assert redact(text) == safe
    assert redact(safe) == safe


def test_what_a_gate_rejects_is_marked_where_people_look(uri: str) -> None:
    """The sentence of the last decision stands once, before all else where it rejects."""
    ledger, made = Ledger(uri, STREAM), generation("a" * 32)
    stream_run = open_stream(ledger)
    record(ledger, base(), stream_run)
    record(ledger, made, stream_run, newest=False)
    before = everything(uri, made.key)["versions"][0].description
    assert before.startswith("agnews (instruct): generation 1, on top of version 1, 300 tokens in 2 s")
    for _ in range(2):
        ledger.judge(made.key, "reject", "worse", accepted=False, latest=True)
    found = everything(uri, made.key)
    assert found["run"].info.run_name == "1 agnews (rejected) aaaaaaaaaa"
    said = f"Rejected by its gate: worse.\n\n{before}"
    assert [version.description for version in found["versions"]] == [said]
    assert found["run"].data.tags["mlflow.note.content"] == said
    ledger.judge(made.key, "accept", "within", accepted=True, latest=True)
    found = everything(uri, made.key)
    assert found["run"].info.run_name == "1 agnews aaaaaaaaaa"
    assert found["versions"][0].description == f"{before}\n\nAccepted by its gate: within."


def test_an_experiment_has_the_description_of_its_stream_and_keeps_a_persons(uri: str) -> None:
    ledger, client = Ledger(uri, STREAM), MlflowClient(uri, uri)
    open_stream(ledger)
    experiment = client.get_experiment_by_name(STREAM)
    assert experiment.tags["mlflow.note.content"] == "Two stages."
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "Ours.")
    open_stream(ledger)
    assert client.get_experiment_by_name(STREAM).tags["mlflow.note.content"] == "Ours."
