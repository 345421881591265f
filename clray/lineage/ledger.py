"""The ledger: the one writer to MLflow, used by the driver only.

experiment = stream; in it a run for each digest of the stream; below that, one nested run, one logged model
and one registered version a generation. Tags find them again, so that what was interrupted is completed and
nothing is written twice. All tags, metrics and aliases stand in mlflow/SCHEMA.md.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from clray.errors import StorageError
from clray.lineage import mlflow_store, mlflow_values
from clray.lineage.generation import Generation
from clray.lineage.key import digest as digest_of
from clray.lineage.mlflow_experiment import NOTE, Experiment
from clray.lineage.mlflow_store import default_tracking, library, redact, translated
from clray.lineage.mlflow_values import Point

__all__ = ["NEWEST", "Ledger", "default_tracking", "redact"]

NEWEST = "newest"
"""Alias of the newest generation of the main line. MLflow keeps the name "latest" for itself."""


class Ledger:
    """Writes and reads one stream at one tracking URI: `sqlite:///FILE` or `http(s)://SERVER`.

    Every method raises StorageError where MLflow cannot be reached or written.
    """

    def __init__(self, tracking_uri: str, stream: str) -> None:
        self.tracking_uri = tracking_uri
        self.stream = stream
        self._book = Experiment(tracking_uri, stream)
        self._stream_run: str | None = None
        self._stream_digest = ""

    def check(self) -> None:
        """Raises StorageError within seconds where MLflow cannot be used; makes a new SQLite file's schema."""
        mlflow_store.check(self.tracking_uri)

    @translated
    def open_stream(self, digest: str, name: str, spec_yaml: str, resolved: dict[str, Any]) -> str:
        """Id of the run that stands for the stream of that digest; the same one each time, running again."""
        run = self._book.run("clray.stream_digest", digest)
        if run is None:
            tags = {"clray.stream_digest": digest, "clray.stream": name}
            run = self._book.client.create_run(self._book.id, run_name=f"{name} {digest[:10]}", tags=tags)
        elif run.info.status != "RUNNING":
            self._book.client.update_run(run.info.run_id, status="RUNNING")
        words = redact(mlflow_values.stream_words(resolved))
        self._book.log(run, mlflow_values.stream_params(resolved), tags={NOTE: words})
        self._book.introduce(words)
        self._book.log_artifacts(run.info.run_id, {"spec.yaml": spec_yaml})
        self._stream_run, self._stream_digest = str(run.info.run_id), digest
        return self._stream_run

    @translated
    def stream_run(self, digest: str) -> str:
        """Id of the run that stands for the stream of that digest; StorageError where it was not opened."""
        if self._stream_run is None or self._stream_digest != digest:
            run = self._book.run("clray.stream_digest", digest)
            if run is None:
                raise StorageError(
                    f"the run of stream '{self.stream}' ({digest[:10]}) is not in MLflow at "
                    f"'{redact(self.tracking_uri)}'. Run the stream with this tracking URI first: clray run."
                )
            self._stream_run, self._stream_digest = str(run.info.run_id), digest
        return self._stream_run

    @translated
    def record(
        self,
        generation: Generation,
        parent_run: str,
        weights_uri: str,
        curve: list[dict[str, Any]],
        artifacts: dict[str, Any],
        latest: bool = True,
        newest: bool = True,
    ) -> str:
        """Registered version of the generation, recorded exactly once whatever was interrupted before.

        `curve` has step, loss, learning_rate and tokens_per_second for each optimiser step. `artifacts` are
        small files, name -> text or plain value. `latest` says that the generation is of the stream's main
        line, whose newest generation carries the alias; `newest=False` that a gate decides on that later.
        """
        run = self._book.only_run(generation.key) or self._create_run(generation, parent_run, latest)
        run_id, found = run.info.run_id, self._book.version(generation.key)
        known = found is not None and run.data.tags.get("clray.recorded") == "true"
        version = str(
            (found if known else self._complete(run, found, generation, weights_uri, curve, artifacts)).version
        )
        if latest:
            if newest:
                self._move_alias(generation.index, version, known)
            if run.data.tags["clray.line"] != "main":
                self._book.client.set_tag(run_id, "clray.line", "main", synchronous=True)
        if not known:
            self._book.client.set_terminated(run_id, "FINISHED", mlflow_values.milliseconds(generation.created))
            self._book.client.set_tag(run_id, "clray.recorded", "true", synchronous=True)
        return version

    @translated
    def judge(self, key: str, decision: str, why: str, accepted: bool, latest: bool) -> None:
        """Marks the recorded generation with its gate's decision: tags, description, and the name of a rejected one's
        run. One that the stream's main line (`latest`) accepts may take the alias; what a control says of a generation
        of the main line is not written."""
        run, version = self._book.run("clray.key", key), self._book.version(key)
        if not latest and run.data.tags["clray.line"] == "main":
            return
        for name, text in (("clray.gate", decision), ("clray.gate_why", why)):
            if run.data.tags.get(name) != text:
                self._book.client.set_tag(run.info.run_id, name, text, synchronous=True)
            if version.tags.get(name) != text:
                self._book.client.set_model_version_tag(self._book.stream, version.version, name, text)
        self._book.rename(run, mlflow_values.judged_name(run.data.tags, accepted))
        self._book.describe(run, version, lambda words: mlflow_values.judged_words(words, why, accepted))
        if accepted and latest:
            known = run.data.tags.get("clray.gate") == decision
            self._move_alias(int(run.data.tags["clray.index"]), str(version.version), known)

    @translated
    def score(
        self,
        key: str,
        row: dict[str, dict[str, Any]],
        index: int,
        continual: dict[str, dict[str, float]],
        above: bool = True,
    ) -> None:
        """Writes a row of the score matrix to the generation's run, and for the main line to the stream's run too.

        There the step is the generation's index, so that MLflow draws scores over generations; `above=False` leaves it
        out, as another generation of that index is the line's. Writes nothing where the same values stand already.
        """
        run = self._book.run("clray.key", key)
        if run is None:
            raise StorageError(
                f"generation {key[:10]} is not recorded in MLflow at '{redact(self.tracking_uri)}'. "
                "Run the stream with this tracking URI first: clray run."
            )
        points, start = mlflow_values.score_points(row, continual, index), run.info.start_time
        self._write_scores(run, points, index, start, run.data.tags.get("clray.model_id"))
        if above and run.data.tags["clray.line"] == "main":
            parent = self._book.client.get_run(self._stream_run or run.data.tags["mlflow.parentRunId"])
            self._write_scores(parent, points, index, start)

    @translated
    def attach(self, run_id: str, path: str | Path) -> None:
        """Copies a file, or what lies in a folder, to the artifacts of the run."""
        if Path(path).is_dir():
            self._book.client.log_artifacts(run_id, str(path))
        else:
            self._book.client.log_artifact(run_id, str(path))

    @translated
    def finish(self, run_id: str, status: str) -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self._book.client.set_terminated(run_id, status)

    @contextlib.contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Logs processor, memory, disk, network and GPU use of this machine to the run, every ten seconds."""
        library()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = cast(Any, SystemMetricsMonitor)(run_id, resume_logging=True, tracking_uri=self.tracking_uri)
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
        runs = list(self._book.runs("clray.recorded", "true"))
        versions = {version.tags.get("clray.key"): str(version.version) for version in self._book.versions()}
        aliases = self._book.aliases() or {}
        return [_row(run, versions.get(run.data.tags["clray.key"]), aliases) for run in runs]

    def _create_run(self, generation: Generation, parent_run: str, latest: bool) -> Any:
        ended, seconds = mlflow_values.milliseconds(generation.created), generation.training.get("seconds", 0)
        line = "main" if latest else "control"
        tags = {"mlflow.parentRunId": parent_run, "clray.key": generation.key, "clray.line": line}
        return self._book.client.create_run(
            self._book.id, ended - int(1000 * seconds), tags, mlflow_values.run_name(generation)
        )

    def _complete(
        self,
        run: Any,
        version: Any,
        generation: Generation,
        weights_uri: str,
        curve: list[dict[str, Any]],
        artifacts: dict[str, Any],
    ) -> Any:
        """The registered version, after everything before it is written; what is there already stays as it is."""
        book, parent = self._book, self._book.version(generation.parent)
        tags = mlflow_values.tags(generation, weights_uri, parent and parent.version)
        note = mlflow_values.words(generation, weights_uri, parent and parent.version)
        model_id = book.log_model(run, mlflow_values.model_name(generation), _kind(generation), tags)
        book.link_models(run, model_id, generation.index, parent and parent.source.removeprefix("models:/"))
        points = mlflow_values.curve_points(curve) + mlflow_values.summary_points(generation.training)
        all_tags = {**tags, "clray.model_id": model_id, NOTE: note}
        book.log(run, mlflow_values.params(generation.stage), points, all_tags, run.info.start_time)
        book.log_data(run, mlflow_values.datasets(generation))
        if artifacts:
            book.log_artifacts(run.info.run_id, artifacts)
        return version or book.register(run, model_id, tags, note)

    def _move_alias(self, index: int, version: str, known: bool) -> None:
        """Moves the alias to a new generation, or to a known one that is not before the one it stands at."""
        at = (self._book.aliases() or {}).get(NEWEST)
        if at == version:
            return
        stream, client = self._book.stream, self._book.client
        if known and at and index < int(client.get_model_version(stream, at).tags["clray.index"]):
            return
        client.set_registered_model_alias(stream, NEWEST, version)

    def _write_scores(self, run: Any, points: list[Point], index: int, start: int, model_id: str | None = None) -> None:
        mark, tag = digest_of([(name, repr(value)) for name, value, _ in points], 12), f"clray.scored.{index}"
        before = run.data.tags.get(tag)
        if before != mark:
            # Of two values at one step MLflow shows the one stamped later: a changed row is stamped now.
            stamp = start if before is None else int(time.time() * 1000)
            self._book.log(run, points=points, tags={tag: mark}, stamp=stamp, model_id=model_id)


def _kind(generation: Generation) -> str:
    return "complete" if generation.complete else "adapter"


def _row(run: Any, version: str | None, aliases: dict[str, str]) -> dict[str, Any]:
    tags, score = run.data.tags, "score/"
    return {
        "key": tags["clray.key"],
        "parent": tags.get("clray.parent"),
        "index": int(tags["clray.index"]),
        "stage": tags["clray.stage"],
        "version": version,
        "run_id": run.info.run_id,
        "scores": {k.removeprefix(score): v for k, v in sorted(run.data.metrics.items()) if k.startswith(score)},
        "aliases": sorted(alias for alias, at in aliases.items() if at == version),
    }
