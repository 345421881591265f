"""The ledger: the one writer to MLflow, used by the driver only. Every call names its run.

experiment = stream; a run for each digest of it; below that, one nested run, one logged model and one
registered version a generation. Tags find them again, so that whatever was interrupted is completed and
nothing is written twice. Tags, metrics and aliases are listed in mlflow/SCHEMA.md.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from clray.errors import StorageError
from clray.lineage import mlflow_store, mlflow_values
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.mlflow_store import default_tracking, library, redact, translated
from clray.lineage.mlflow_values import Point

__all__ = ["NEWEST", "Ledger", "default_tracking", "redact"]

NEWEST = "newest"
"""Alias of the newest generation of the main line. MLflow keeps the name "latest" for itself."""
PARAMS_A_CALL = 100
METRICS_A_CALL = 800
"""MLflow takes 1,000 entities a call, tags among them."""


class Ledger:
    """Writes and reads one stream at one tracking URI: `sqlite:///FILE` or `http(s)://SERVER`."""

    def __init__(self, tracking_uri: str, stream: str) -> None:
        self.tracking_uri = tracking_uri
        self.stream = stream
        self._stream_run: str | None = None

    def check(self) -> None:
        """Raises StorageError within seconds where MLflow cannot be used; makes a new SQLite file's schema."""
        mlflow_store.check(self.tracking_uri)

    @translated
    def open_stream(self, digest: str, name: str, spec_yaml: str, resolved: dict[str, Any]) -> str:
        """Id of the run that stands for the stream of that digest; the same one each time, running again."""
        run = self._find("clray.stream_digest", digest)
        if run is None:
            tags = {"clray.stream_digest": digest, "clray.stream": name}
            run = self._client.create_run(self._experiment, run_name=f"{name} {digest[:10]}", tags=tags)
        elif run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        description = {"mlflow.note.content": redact(str(resolved.get("description") or ""))}
        self._log(run, params=mlflow_values.stream_params(resolved), tags=description)
        self._log_artifacts(run.info.run_id, {"spec.yaml": spec_yaml})
        self._stream_run = str(run.info.run_id)
        return self._stream_run

    @translated
    def record(self, generation: Generation, parent_run: str, weights_uri: str, curve: list[dict[str, Any]],
               artifacts: dict[str, Any], latest: bool = True) -> str:
        """Registered version of the generation, recorded exactly once whatever was interrupted before.

        `curve` has step, loss, learning_rate and tokens_per_second a step; `artifacts` are small files, name ->
        text or plain value; `latest` says that the generation belongs to the main line of the stream, whose
        newest generation carries the alias.
        """
        run = self._find("clray.key", generation.key) or self._create_run(generation, parent_run, latest)
        version = self._version(generation.key)
        known = version is not None and run.data.tags.get("clray.recorded") == "true"
        if not known:
            parent = self._version(generation.parent)
            tags = self._tags(generation, weights_uri, parent)
            self._log_generation(run, generation, curve, artifacts, tags)
            model_id = self._log_model(run, generation, tags, parent)
            version = version or self._register(run, generation, tags, model_id)
        if latest:
            self._move_alias(generation.index, str(version.version), known)
        if not known:
            ended = mlflow_values.milliseconds(generation.created)
            self._client.set_terminated(run.info.run_id, "FINISHED", ended)
        if latest and run.data.tags.get("clray.line") != "main":
            self._client.set_tag(run.info.run_id, "clray.line", "main", synchronous=True)
        if not known:
            self._client.set_tag(run.info.run_id, "clray.recorded", "true", synchronous=True)
        return str(version.version)

    @translated
    def score(self, key: str, row: dict[str, dict[str, Any]], index: int, continual: dict[str, dict[str, float]]) -> None:
        """Writes a row of the score matrix to the generation's run, and for the main line to the stream's run too.

        There the step is the generation's index, so that MLflow draws scores over generations. Writes nothing
        where the same values stand already.
        """
        run = self._find("clray.key", key)
        if run is None:
            raise StorageError(f"generation {key[:10]} is not recorded in MLflow at '{redact(self.tracking_uri)}'. "
                               "Run the stream there first: clray run.")
        points, start = mlflow_values.score_points(row, continual, index), run.info.start_time
        self._write_scores(run, points, index, start, run.data.tags.get("clray.model_id"))
        if run.data.tags.get("clray.line") == "main":
            above = self._client.get_run(self._stream_run or run.data.tags["mlflow.parentRunId"])
            self._write_scores(above, points, index, start)

    @translated
    def attach(self, run_id: str, path: str | Path) -> None:
        """Copies a file, or what lies in a folder, to the artifacts of the run."""
        if Path(path).is_dir():
            self._client.log_artifacts(run_id, str(path))
        else:
            self._client.log_artifact(run_id, str(path))

    @translated
    def finish(self, run_id: str, status: str) -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status)

    @contextlib.contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Logs processor, memory, disk, network and GPU use of this machine to the run, every ten seconds."""
        library()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    @translated
    def generations(self) -> list[dict[str, Any]]:
        """The recorded generations, oldest first: key, parent, index, stage, version, aliases, run_id, scores.

        `scores` is "task/metric" -> value.
        """
        experiment = self._client.get_experiment_by_name(self.stream)
        if experiment is None:
            return []
        runs = _all(self._client.search_runs, experiment_ids=[experiment.experiment_id],
                    filter_string="tags.`clray.recorded` = 'true'", order_by=["attributes.start_time ASC"])
        named = f"name = '{self.stream}'"
        versions = {found.tags.get("clray.key"): str(found.version)
                    for found in _all(self._client.search_model_versions, filter_string=named)}
        aliases = {alias: str(version) for model in self._client.search_registered_models(named)
                   for alias, version in model.aliases.items()}
        return [_row(run, versions.get(run.data.tags["clray.key"]), aliases) for run in runs]

    @cached_property
    def _client(self) -> Any:
        return library().MlflowClient(self.tracking_uri, self.tracking_uri)

    @cached_property
    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.stream)
        if found is None:
            file = mlflow_store.sqlite_file(self.tracking_uri)
            beside = None if file is None else (file.parent / mlflow_store.ARTIFACTS / self.stream).as_uri()
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(self.stream, artifact_location=beside, tags=kind))
        if found.lifecycle_stage == "deleted":
            raise StorageError(f"the MLflow experiment '{self.stream}' is deleted. Restore it with 'mlflow experiments "
                               f"restore --experiment-id {found.experiment_id}', or give the stream another name.")
        return str(found.experiment_id)

    def _find(self, tag: str, value: str) -> Any:
        found = self._client.search_runs([self._experiment], f"tags.`{tag}` = '{value}'", max_results=1,
                                         order_by=["attributes.start_time ASC"])
        return next(iter(found), None)

    def _version(self, key: str | None) -> Any:
        if key is None:
            return None
        found = self._client.search_model_versions(f"name = '{self.stream}' and tags.`clray.key` = '{key}'", max_results=1)
        return next(iter(found), None)

    def _tags(self, generation: Generation, weights_uri: str, parent: Any) -> dict[str, str]:
        tags = {"clray.key": generation.key, "clray.parent": generation.parent, "clray.stage": generation.stage_name,
                "clray.parent_version": parent and parent.version, "clray.index": generation.index,
                "clray.data_digest": generation.data.get("digest"), "clray.weights_uri": redact(weights_uri)}
        return {name: str(value) for name, value in tags.items() if value is not None}

    def _create_run(self, generation: Generation, parent_run: str, latest: bool) -> Any:
        started = mlflow_values.milliseconds(generation.created) - int(1000 * generation.training.get("seconds", 0))
        tags = {"mlflow.parentRunId": parent_run, "clray.key": generation.key, "clray.line": "main" if latest else "control"}
        return self._client.create_run(self._experiment, start_time=started, tags=tags,
                                       run_name=mlflow_values.run_name(generation))

    def _log_generation(self, run: Any, generation: Generation, curve: list[dict[str, Any]], artifacts: dict[str, Any],
                        tags: dict[str, str]) -> None:
        points = mlflow_values.curve_points(curve) + mlflow_values.summary_points(generation.training)
        note = {"mlflow.note.content": mlflow_values.words(generation, tags["clray.weights_uri"])}
        self._log(run, mlflow_values.params(generation.stage), points, tags | note, run.info.start_time)
        self._log_inputs(run, generation)
        self._log_artifacts(run.info.run_id, artifacts)

    def _log(self, run: Any, params: dict[str, str] | None = None, points: list[Point] | None = None,
             tags: dict[str, str] | None = None, stamp: int = 0, model_id: str | None = None) -> None:
        """Few and large calls. With the same `stamp` a point that is there already is not written again."""
        from mlflow.entities import Metric, Param, RunTag

        new = iter([Param(name, value) for name, value in (params or {}).items() if name not in run.data.params])
        metrics = iter([Metric(name, value, stamp, step, model_id=model_id) for name, value, step in points or []])
        batches = iter(lambda: (list(islice(metrics, METRICS_A_CALL)), list(islice(new, PARAMS_A_CALL))), ([], []))
        for metrics_now, params_now in batches:
            self._client.log_batch(run.info.run_id, metrics_now, params_now, synchronous=True)
        if tags:
            self._client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)

    def _log_inputs(self, run: Any, generation: Generation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [DatasetInput(Dataset(data.name, data.digest, "clray", redact(json.dumps(data.source)),
                                       profile=json.dumps(data.profile)),
                               [InputTag("mlflow.data.context", data.context)])
                  for data in mlflow_values.datasets(generation)]
        if inputs:
            self._client.log_inputs(run.info.run_id, inputs)

    def _log_artifacts(self, run_id: str, artifacts: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(prefix="clray-artifacts-") as folder:
            for name, value in artifacts.items():
                text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
                Path(folder, name).write_text(redact(text), encoding="utf-8")
            self._client.log_artifacts(run_id, folder)

    def _log_model(self, run: Any, generation: Generation, tags: dict[str, str], parent: Any) -> str:
        """Id of the generation's logged model: an entry with tags; the weights stay on the storage path."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        found = self._client.search_logged_models([self._experiment], f"tags.`clray.key` = '{generation.key}'", max_results=1)
        model = next(iter(found), None) or self._client.create_logged_model(
            self._experiment, mlflow_values.model_name(self.stream, generation), run.info.run_id, tags,
            model_type="complete" if generation.complete else "adapter",
        )
        if model.status != "READY":
            self._client.finalize_logged_model(model.model_id, "READY")
        if parent is not None and not run.inputs.model_inputs:
            self._client.log_inputs(run.info.run_id, models=[LoggedModelInput(parent.tags["clray.model_id"])])
        if not run.outputs or not run.outputs.model_outputs:
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=generation.index)])
        self._client.set_tag(run.info.run_id, "clray.model_id", model.model_id, synchronous=True)
        return str(model.model_id)

    def _register(self, run: Any, generation: Generation, tags: dict[str, str], model_id: str) -> Any:
        if not self._client.search_registered_models(f"name = '{self.stream}'"):
            self._client.create_registered_model(self.stream, description=f"Generations of stream {self.stream}.")
        return self._client.create_model_version(
            self.stream, f"models:/{model_id}", run.info.run_id, tags | {"clray.model_id": model_id},
            description=mlflow_values.words(generation, tags["clray.weights_uri"]), model_id=model_id,
        )

    def _move_alias(self, index: int, version: str, known: bool) -> None:
        """Moves the alias to a new generation, or to a known one that is not before the one it stands at."""
        [model] = self._client.search_registered_models(f"name = '{self.stream}'")
        at = model.aliases.get(NEWEST)
        if at is not None and str(at) == version:
            return
        if at is not None and known:
            if index < int(self._client.get_model_version(self.stream, at).tags["clray.index"]):
                return
        self._client.set_registered_model_alias(self.stream, NEWEST, version)

    def _write_scores(self, run: Any, points: list[Point], index: int, start: int, model_id: str | None = None) -> None:
        mark, tag = digest([(name, repr(value)) for name, value, _ in points], 12), f"clray.scored.{index}"
        before = run.data.tags.get(tag)
        if before != mark:
            # MLflow shows the newest of two values at one step, so a changed row needs a later stamp.
            stamp = start if before is None else int(time.time() * 1000)
            self._log(run, points=points, tags={tag: mark}, stamp=stamp, model_id=model_id)


def _row(run: Any, version: str | None, aliases: dict[str, str]) -> dict[str, Any]:
    tags = run.data.tags
    scores = {name.removeprefix("score/"): value for name, value in sorted(run.data.metrics.items())
              if name.startswith("score/")}
    return {"key": tags["clray.key"], "parent": tags.get("clray.parent"), "index": int(tags["clray.index"]),
            "stage": tags["clray.stage"], "version": version, "run_id": run.info.run_id, "scores": scores,
            "aliases": sorted(alias for alias, at in aliases.items() if at == version)}


def _all(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """Everything that a paged search finds."""
    token = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
