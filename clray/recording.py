"""Writes down what happened: the record of a generation, and everything that goes to MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clray.evaluation.metrics import continual_metrics
from clray.instructions import kept
from clray.lineage import notes
from clray.lineage.clock import now
from clray.lineage.delivery import Courier
from clray.lineage.environment import environment
from clray.lineage.gate import Verdict
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.ledger import Ledger, default_tracking, redact
from clray.lineage.spool import Call, Letter
from clray.outcome import LineOutcome, Outcome, expert_scores
from clray.planned import Line, Plan, PlannedStage
from clray.preparation import PreparedStage
from clray.report.page import write_report
from clray.spec import loading
from clray.summary import summarise
from clray.train.order import StageResult


def generation(line: Line, planned: PlannedStage, prepared: PreparedStage, result: StageResult) -> Generation:
    """The record of the generation that the stage of the line made."""
    flops, seconds = prepared.cost.flops, max(result.training["seconds"], 1e-9)
    return Generation(
        key=planned.key,
        parent=planned.parent,
        index=planned.index,
        stage_name=planned.stage.name,
        base=result.base,
        adapter=None if result.base == planned.key else planned.recipe.resolved["adapter"],
        stage=planned.recipe.resolved,
        inheritance=planned.recipe.inheritance,
        data={
            **prepared.packed.summary(),
            "origins": prepared.packed.provenance["origins"],
            "records": prepared.packed.provenance["records"],
            "sources": prepared.mixture.own.provenance["sources"],
        },
        receipt={
            "seed": planned.seed,
            "replay": planned.recipe.resolved["replay"],
            "draws": [draw.receipt() for draw in prepared.draws],
            **({"replay_kept": kept.identity(planned.replay)} if planned.replay["kind"] == "inscl" else {}),
            **({"pseudo": planned.pseudo.receipt()} if planned.pseudo else {}),
            **({"round": planned.round.receipt()} if planned.round else {}),
            **({"teachers": list(prepared.teachers)} if any(prepared.teachers) else {}),
            **({"references": prepared.references.receipt()} if prepared.references else {}),
        },
        training={
            **result.training,
            "flops": flops,
            "flops_per_second": flops / seconds,
            "bytes_per_device": prepared.cost.bytes_per_device,
        },
        environment=environment(),
        files=result.files,
        created=now(),
        run={"stream": line.stream.name, "spec": notes.mark(loading.to_yaml(line.stream))},
    )


class Recorder:
    """The driver's hand on the ledger: opened and checked before anything is spent, the only writer.

    An MLflow that goes away later is waited for by nobody: what it was not told is kept and delivered, see
    `lineage.delivery`. `say` is told of it.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._ledger = Ledger(plan.stream.tracking or default_tracking(plan.store), plan.stream.name)
        self._ledger.check()
        self._courier = Courier(self._ledger, plan.store, say)
        self._digest = digest([line.keys for line in plan.lines])
        self._stack = ExitStack()
        self._opened = False
        self._recorded: set[str] = set()
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Recorder:
        return self

    def open(self) -> None:
        """Opens the run of the stream in MLflow. Not before all input is checked: a refused stream leaves nothing."""
        stream = self._plan.stream
        run = self._send("open", spec=loading.to_yaml(stream), resolved=loading.dump(stream))
        self._opened = True
        tracking = stream.tracking and redact(stream.tracking)
        for spec in dict.fromkeys(loading.to_yaml(line.stream) for line in self._plan.chains):
            notes.keep(self._plan.store, stream.name, spec, tracking)
        if run:
            self._stack.enter_context(self._ledger.system_metrics(run))

    def __exit__(self, kind: Any, *_: object) -> None:
        self._stack.close()
        if self._opened:
            ended = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            self._send("finish", now=True, status=ended)
            self._courier.close()

    def record(self, line: Line, made: Generation) -> None:
        """Records the generation in MLflow, once; completes what an interrupted run left open."""
        if made.key in self._recorded:
            return
        self._recorded.add(made.key)
        waits = any(stage.key == made.key and stage.gate for stage in (*line.stages, *line.rejected))
        latest = self._is_main(line)
        spec = loading.to_yaml(line.stream)
        version = self._send("record", key=made.key, spec=spec, latest=latest, newest=latest and not waits)
        if version:
            self.versions[made.key] = version

    def judge(self, line: Line, planned: PlannedStage, verdict: Verdict) -> None:
        """Marks the generation with what its gate decided. A rejected one has its scores in its own run alone."""
        self._send(
            "judge",
            key=planned.key,
            decision=str(verdict.decision),
            why=verdict.why,
            accepted=verdict.accepted,
            latest=self._is_main(line),
        )
        if not verdict.accepted:
            row = self._row(planned.key)
            self._send("score", key=planned.key, row=row, index=planned.index, continual={}, above=False)

    def score(self, outcome: LineOutcome, line: Line) -> None:
        """Writes each generation's row of the score matrix, and the continual metrics as far as it reaches."""
        singles = expert_scores(self._plan)
        for index, key in enumerate(line.keys):
            row, main = self._row(key), self._is_main(line)
            if row and (main or index):
                continual = continual_metrics(outcome.matrix.upto(index), singles)
                self._send("score", key=key, row=row, index=index, continual=continual, above=main)

    def publish(self, outcome: Outcome) -> None:
        """Writes the report, the outcome and the plan below the store, and hands them to MLflow."""
        with tempfile.TemporaryDirectory(prefix="clray-report-") as scratch:
            folder = Path(scratch)
            write_report(outcome.to_dict(), folder / "report.html")
            for name, value in (("outcome", outcome.to_dict()), ("plan", summarise(outcome.plan).to_dict())):
                (folder / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
            outcome.plan.store.upload(folder, outcome.plan.folder)
            files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
            self._send("attach", files=files)

    def _send(self, call: Call, now: bool = False, **values: Any) -> str | None:
        stream = self._plan.stream
        tracking = stream.tracking and redact(stream.tracking)
        letter = Letter(call=call, stream=stream.name, digest=self._digest, tracking=tracking, values=values)
        return self._courier.send(letter, now)

    def _is_main(self, line: Line) -> bool:
        return line.name == self._plan.lines[0].name

    def _row(self, key: str) -> dict[str, dict[str, float]]:
        """The generation's metrics by task, as far as it was measured."""
        cells = {task.task.name: self._plan.store.score(key, task.digest) for task in self._plan.tasks}
        return {name: cell["metrics"] for name, cell in cells.items() if cell}
