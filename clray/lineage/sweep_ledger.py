"""The ledger of a sweep: one run for the sweep, a nested one for each trial, and links to the generations.

In the experiment of the stream, beside the runs of streams. A generation is recorded once, below the trial that
recorded it first; every trial that stands on it names its logged model as an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clray.lineage.generation import Generation
from clray.lineage.ledger import Ledger
from clray.lineage.mlflow_experiment import NOTE
from clray.lineage.mlflow_store import redact, translated
from clray.lineage.mlflow_values import Point
from clray.lineage.store import Store


class SweepLedger(Ledger):
    """Writes one sweep. Every method raises StorageError where MLflow cannot be reached or written."""

    @translated
    def open_sweep(self, digest: str, name: str, spec_yaml: str, params: dict[str, str], note: str) -> str:
        """Id of the run that stands for the sweep of that digest; the same one each time, running again."""
        run = self._found("clray.sweep_digest", digest, f"sweep {name}", {"clray.sweep": name})
        self._book.log(run, params, tags={NOTE: redact(note)})
        self._book.log_artifacts(run.info.run_id, {"sweep.yaml": spec_yaml})
        return str(run.info.run_id)

    @translated
    def trial(
        self, sweep_run: str, mark: str, name: str, params: dict[str, str], points: list[Point], tags: dict[str, str]
    ) -> str:
        """Id of the run that stands for the trial of that mark, with its settings, metrics and tags written once."""
        run = self._found("clray.trial", mark, name, {"mlflow.parentRunId": sweep_run})
        self._book.log(run, params, points, tags, run.info.start_time)
        return str(run.info.run_id)

    @translated
    def link(self, run_id: str, made: Sequence[Generation], store: Store, spec_yaml: str) -> None:
        """Records the generations that are not recorded yet, below the run, and names all as its inputs."""
        from mlflow.entities import LoggedModelInput

        for one in made:
            if self._book.version(one.key) is None:
                artifacts = {"generation.json": one.to_dict(), "receipt.json": one.receipt, "spec.yaml": spec_yaml}
                curve = store.read_json(f"generations/{one.key}/curve.json") or []
                self.record(one, run_id, store.uri(f"generations/{one.key}/weights"), curve, artifacts, latest=False)
        run = self._book.client.get_run(run_id)
        if made and not (run.inputs and run.inputs.model_inputs):
            versions = [self._book.version(one.key) for one in made]
            models = [LoggedModelInput(version.source.removeprefix("models:/")) for version in versions if version]
            self._book.client.log_inputs(run_id, models=models)

    def _found(self, tag: str, value: str, name: str, tags: dict[str, str]) -> Any:
        """The run of that tag, running: as it is, or new."""
        run = self._book.run(tag, value)
        if run is None:
            return self._book.client.create_run(self._book.id, run_name=name, tags={tag: value, **tags})
        if run.info.status != "RUNNING":
            self._book.client.update_run(run.info.run_id, status="RUNNING")
        return run
