"""A stream whose MLflow server is killed while it trains: it goes on, and the next run brings what is missing."""

import signal

import pytest
from mlflow import MlflowClient
from watchers import Quiet

from clray import conductor
from clray.lineage import delivery
from clray.lineage.spool import Spool
from clray.spec import loading
from servers import mlflow_server
from texts import texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]


class Killing(Quiet):
    """Kills the server when the stage of that name trains."""

    def __init__(self, server, stage):
        super().__init__()
        self._server, self._stage = server, stage

    def training(self, line, stage, progress):
        if stage == self._stage:
            self._server.stop(signal.SIGKILL)


def test_training_goes_on_without_the_server(tiny_model, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.0)
    write_lines(tmp_path / "text.jsonl", [{"text": t} for t in texts(60, most=20)])
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as server:
        stream = loading.loads(f"""
name: lost
model: {{base: {tiny_model}}}
storage: {tmp_path}/store
tracking: {server.uri}
sequence_length: 64
batch: {{size: 8}}
stages:
  - {{name: one, kind: pretrain, data: {tmp_path}/text.jsonl}}
  - {{name: two, kind: pretrain, data: {tmp_path}/text.jsonl, optimiser: {{learning_rate: 1e-3}}}}
tasks:
  - {{name: text, scorer: perplexity, data: {tmp_path}/text.jsonl, limit: 10}}
""")
        watch = Killing(server, "two")
        outcome = conductor.run(stream, watch)
        assert len(outcome.built) == 2 and all(score is not None for row in outcome.matrix.R for score in row)
        store = outcome.plan.store
        calls = [letter.call for _, letter in Spool(store).letters("lost")]
        assert calls == ["record", "score", "score", "score", "attach", "finish"]
        assert sum("The stream goes on" in text for text in watch.said) == 1 and "records wait in" in watch.said[-1]
        server.start()
        again = Quiet()
        assert not conductor.run(stream, again).built
        assert any("6 records delivered" in text for text in again.said) and not Spool(store).streams()
        client = MlflowClient(server.uri, server.uri)
        experiment = client.get_experiment_by_name("lost").experiment_id
        runs = client.search_runs([experiment])
        keys = [run.data.tags["clray.key"] for run in runs if "clray.key" in run.data.tags]
        assert sorted(keys) == sorted(outcome.plan.lines[0].keys) and len(runs) == 4
        [above] = [run for run in runs if "clray.key" not in run.data.tags]
        history = client.get_metric_history(above.info.run_id, "score/text/bits_per_byte")
        assert sorted(point.step for point in history) == [0, 1, 2] and above.info.status == "FINISHED"
        assert "report.html" in [file.path for file in client.list_artifacts(above.info.run_id)]
