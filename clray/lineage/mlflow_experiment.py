"""A stream's experiment and registered model in MLflow: found by tag, written in few and large calls."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from clray.errors import StorageError
from clray.lineage.mlflow_store import artifacts_beside, as_default, library, redact
from clray.lineage.mlflow_values import Data, Point

PARAMS_A_CALL = 100
METRICS_A_CALL = 800
"""MLflow takes 100 parameters, and 1,000 entities in all, a call."""

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of a run or an experiment."""


class Experiment:
    """What is written and read of one stream; every call goes through one client and names its run."""

    def __init__(self, tracking_uri: str, stream: str) -> None:
        self.tracking_uri = tracking_uri
        self.stream = stream

    @cached_property
    def client(self) -> Any:
        """The MlflowClient, for tracking and registry alike."""
        return library().MlflowClient(self.tracking_uri, self.tracking_uri)

    @cached_property
    def id(self) -> str:
        """Id of the experiment, made where there is none; StorageError where it was deleted."""
        found = self.client.get_experiment_by_name(self.stream)
        if found is None:
            return str(
                self.client.create_experiment(
                    self.stream,
                    artifact_location=artifacts_beside(self.tracking_uri, self.stream),
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
        if found.lifecycle_stage == "deleted":
            raise StorageError(
                f"the MLflow experiment '{self.stream}' is deleted. Restore it with 'mlflow experiments restore "
                f"--experiment-id {found.experiment_id}', or give the stream another name."
            )
        return str(found.experiment_id)

    def run(self, tag: str, value: str) -> Any:
        """The first run with that tag, or None."""
        order = ["attributes.start_time ASC"]
        found = self.client.search_runs([self.id], f"tags.`{tag}` = '{value}'", max_results=1, order_by=order)
        return next(iter(found), None)

    def only_run(self, key: str) -> Any:
        """The run of the generation, or None. A server that was killed may have made two of one call: the empty one
        goes."""
        found = list(self.client.search_runs([self.id], f"tags.`clray.key` = '{key}'", max_results=5))
        found.sort(key=lambda run: run.data.tags.get("clray.recorded") != "true")
        for run in found[1:]:
            if run.data.tags.get("clray.recorded") != "true":
                self.client.delete_run(run.info.run_id)
        return next(iter(found), None)

    def runs(self, tag: str, value: str) -> Iterator[Any]:
        """All runs with that tag, oldest first; none where there is no experiment."""
        experiment = self.client.get_experiment_by_name(self.stream)
        if experiment is None:
            return iter(())
        return all_pages(
            self.client.search_runs,
            experiment_ids=[experiment.experiment_id],
            filter_string=f"tags.`{tag}` = '{value}'",
            order_by=["attributes.start_time ASC"],
        )

    def version(self, key: str | None) -> Any:
        """The registered version of the generation, or None."""
        query = f"name = '{self.stream}' and tags.`clray.key` = '{key}'"
        return next(iter(self.client.search_model_versions(query, max_results=1)), None) if key else None

    def versions(self) -> Iterator[Any]:
        """All registered versions."""
        return all_pages(self.client.search_model_versions, filter_string=f"name = '{self.stream}'")

    def aliases(self) -> dict[str, str] | None:
        """Alias -> version; None where nothing is registered yet."""
        found = next(iter(self.client.search_registered_models(f"name = '{self.stream}'")), None)
        return None if found is None else {alias: str(version) for alias, version in found.aliases.items()}

    def log(
        self,
        run: Any,
        params: dict[str, str] | None = None,
        points: list[Point] | None = None,
        tags: dict[str, str] | None = None,
        stamp: int = 0,
        model_id: str | None = None,
    ) -> None:
        """Writes parameters that are not there yet, then metrics, then tags.

        With the same `stamp` (milliseconds) a point that is there already is not written again.
        """
        from mlflow.entities import Metric, Param, RunTag

        new = iter([Param(name, text) for name, text in (params or {}).items() if name not in run.data.params])
        metrics = iter([Metric(name, value, stamp, step, model_id) for name, value, step in points or []])
        told = [RunTag(*tag) for tag in (tags or {}).items()]
        while True:
            batch = list(islice(metrics, METRICS_A_CALL)), list(islice(new, PARAMS_A_CALL))
            last = len(batch[0]) < METRICS_A_CALL and len(batch[1]) < PARAMS_A_CALL
            self.client.log_batch(run.info.run_id, *batch, told if last else (), synchronous=True)
            if last:
                return

    def introduce(self, words: str) -> None:
        """Gives the experiment a description where it has none."""
        if words and not self.client.get_experiment(self.id).tags.get(NOTE):
            self.client.set_experiment_tag(self.id, NOTE, words)

    def rename(self, run: Any, name: str) -> None:
        """Gives the run another name."""
        if run.info.run_name != name:
            self.client.update_run(run.info.run_id, name=name)

    def describe(self, run: Any, version: Any, changed: Callable[[str], str]) -> None:
        """Changes the descriptions of the run and of the registered version."""
        before = run.data.tags.get(NOTE, ""), version.description or ""
        after = changed(before[0]), changed(before[1])
        if after[0] != before[0]:
            self.client.set_tag(run.info.run_id, NOTE, after[0], synchronous=True)
        if after[1] != before[1]:
            self.client.update_model_version(self.stream, version.version, after[1])

    def log_data(self, run: Any, found: list[Data]) -> None:
        """Names the data sets as inputs of the run; one that is named already is not named again."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for data in found:
            source, profile = redact(json.dumps(data.source)), json.dumps(data.profile)
            dataset = Dataset(data.name, data.digest, "clray", source, profile=profile)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)]))
        if inputs:
            self.client.log_inputs(run.info.run_id, inputs)

    def log_artifacts(self, run_id: str, artifacts: dict[str, Any]) -> None:
        """Writes each value as a file of that name: text as it is, anything else as JSON."""
        with tempfile.TemporaryDirectory(prefix="clray-artifacts-") as folder:
            for name, value in artifacts.items():
                text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
                Path(folder, name).write_text(redact(text), encoding="utf-8")
            self.client.log_artifacts(run_id, folder)

    def log_model(self, run: Any, name: str, kind: str, tags: dict[str, str]) -> str:
        """Id of the logged model with the tag `clray.key` of `tags`, made and ended where it is not."""
        query = f"tags.`clray.key` = '{tags['clray.key']}'"
        model = next(iter(self.client.search_logged_models([self.id], query, max_results=1)), None)
        if model is None:
            model = self.client.create_logged_model(self.id, name, run.info.run_id, tags, model_type=kind)
        if model.status != "READY":
            self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def link_models(self, run: Any, made: str, step: int, used: str | None) -> None:
        """Names a logged model as output of the run, and another as its input; once."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        if used is not None and not (run.inputs and run.inputs.model_inputs):
            self.client.log_inputs(run.info.run_id, models=[LoggedModelInput(used)])
        if not (run.outputs and run.outputs.model_outputs):
            self.client.log_outputs(run.info.run_id, [LoggedModelOutput(made, step=step)])

    def register(self, run: Any, model_id: str, tags: dict[str, str], description: str) -> Any:
        """The new version of the stream's registered model, which is made with the first one."""
        if self.aliases() is None:
            self.client.create_registered_model(self.stream, description=f"Generations of the stream {self.stream}.")
        with as_default(self.tracking_uri):
            return self.client.create_model_version(
                self.stream,
                f"models:/{model_id}",
                run.info.run_id,
                tags,
                description=description,
                model_id=model_id,
            )


def all_pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """Everything that an MLflow search finds, page by page."""
    token = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
