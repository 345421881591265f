"""What a run ended in: for each line its generations, score matrix and metrics. Read from the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clray import gating
from clray.evaluation.matrix import Cell, ScoreMatrix
from clray.evaluation.metrics import continual_metrics
from clray.evolving.telling import told
from clray.lineage.gate import Verdict
from clray.lineage.generation import Generation
from clray.planned import Line, Plan, PlannedStage, generation_of
from clray.selection import Selection, selection_of
from clray.spec import loading

SAMPLES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A generation that did not pass its gate: why, and its scores by task, None where not measured."""

    generation: Generation
    verdict: Verdict
    scores: dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class LineOutcome:
    """One line: its generations (0 first), the score matrix, and the metrics by unit of score.

    `selection` says which LoRA blocks a shared attention selects in the last generation; None where none does.
    `verdicts` are those of gates by key; generations that did not pass are `rejected` and in none of the rest.
    """

    name: str
    generations: tuple[Generation, ...]
    matrix: ScoreMatrix
    metrics: dict[str, dict[str, float]]
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    selection: Selection | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run ended in. `built` are the keys that were trained by it; all others were there before."""

    plan: Plan
    lines: tuple[LineOutcome, ...]
    experts: dict[str, float]
    built: frozenset[str]
    created: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> LineOutcome:
        """The stream itself."""
        return self.lines[0]

    @property
    def report(self) -> str:
        """Where the HTML report lies."""
        return self.plan.store.path(f"{self.plan.folder}/report.html")

    @property
    def matrix(self) -> ScoreMatrix:
        """The score matrix of the stream itself."""
        return self.line.matrix

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain values: what the report and `--json` show."""
        stream = self.plan.stream
        return {
            "stream": {
                "name": stream.name,
                "description": stream.description,
                "seed": stream.seed,
                "spec_yaml": loading.to_yaml(stream),
            },
            "created": self.created,
            "seconds": round(self.seconds, 1),
            "environment": self.line.generations[-1].environment,
            "experts": self.experts,
            "similarity": self.plan.similarity.to_dict() if self.plan.similarity else None,
            "lines": [self._line(line) for line in self.lines],
        }

    def _line(self, line: LineOutcome) -> dict[str, Any]:
        return {
            "name": line.name,
            "matrix": line.matrix.to_dict(),
            "metrics": line.metrics,
            "selection": None if line.selection is None else line.selection.to_dict(),
            "generations": [self._generation(line, g) for g in line.generations],
            "rejected": [{**self._generation(line, one.generation), "scores": one.scores} for one in line.rejected],
        }

    def _generation(self, line: LineOutcome, made: Generation) -> dict[str, Any]:
        verdict = line.verdicts.get(made.key)
        return {
            **made.to_dict(),
            "curve": line.curves.get(made.key, []),
            "version": self.versions.get(made.key),
            "built": made.key in self.built,
            "pseudo": self._pseudo(made),
            "evolved": told(made, self.plan.store),
            "verdict": verdict.to_dict() if verdict else None,
        }

    def _pseudo(self, generation: Generation) -> dict[str, Any] | None:
        """The first pseudo-samples that the stage reflects with, and their number; None where it has none."""
        receipt = generation.receipt.get("pseudo")
        kept = self.plan.store.read_json(receipt["file"]) if receipt else None
        if kept is None:
            return None
        return {"asked": kept["asked"], "kept": len(kept["samples"]), "samples": kept["samples"][:SAMPLES_SHOWN]}


def line_outcome(plan: Plan, line: Line) -> LineOutcome:
    """The outcome of a line as far as it is in the store."""
    generations = tuple(generation_of(plan, key) for key in line.keys)
    matrix = score_matrix(plan, line)
    rejected = tuple(found for one in line.rejected if (found := _rejected(plan, one)))
    shown = (*generations, *(one.generation for one in rejected))
    curves = {g.key: plan.store.read_json(f"generations/{g.key}/curve.json") or [] for g in shown}
    metrics = continual_metrics(matrix, expert_scores(plan))
    return LineOutcome(
        name=line.name,
        generations=generations,
        matrix=matrix,
        metrics=metrics,
        curves=curves,
        selection=selection_of(generations, cells_of_last(plan, line), matrix),
        verdicts={
            one.key: verdict
            for one in (*line.stages, *line.rejected)
            if (verdict := gating.verdict_of(one.gate, one.key, plan.store))
        },
        rejected=rejected,
    )


def _rejected(plan: Plan, planned: PlannedStage) -> Rejected | None:
    """The rejected generation as it is kept; None where its record is gone."""
    made, verdict = plan.store.generation(planned.key), gating.verdict_of(planned.gate, planned.key, plan.store)
    if made is None or verdict is None:
        return None
    cells = {spec.task.name: plan.store.score(planned.key, spec.digest) for spec in plan.tasks}
    metrics = {spec.task.name: spec.task.score for spec in plan.tasks}
    scores = {name: float(cell["metrics"][metrics[name]]) if cell else None for name, cell in cells.items()}
    return Rejected(generation=made, verdict=verdict, scores=scores)


def cells_of_last(plan: Plan, line: Line) -> dict[str, dict[str, Any]]:
    """The scores of the line's last generation by task, as they are kept."""
    found = {task.task.name: plan.store.score(line.keys[-1], task.digest) for task in plan.tasks}
    return {name: cell for name, cell in found.items() if cell}


def expert_scores(plan: Plan) -> dict[str, float]:
    """Score of each task's single-task expert, as far as they are trained and measured."""
    matrices = [score_matrix(plan, line) for line in plan.experts]
    cells = ((task, m.R[1][i]) for m in matrices for i, task in enumerate(m.tasks) if m.learned_at[task] == 1)
    return {task: score for task, score in cells if score is not None}


def score_matrix(plan: Plan, line: Line) -> ScoreMatrix:
    """The score matrix of the line; cells that are not wanted, or not measured yet, are None."""

    def cell(index: int, number: int) -> float | None:
        spec = plan.tasks[number]
        wanted = line.measures(spec.task.name, index)
        found = plan.store.score(line.keys[index], spec.digest) if wanted else None
        return None if found is None else float(found["metrics"][spec.task.score])

    return ScoreMatrix(
        tasks=tuple(spec.task.name for spec in plan.tasks),
        metrics={spec.task.name: spec.task.score for spec in plan.tasks},
        learned_at={spec.task.name: line.learned_at(spec.task.name) for spec in plan.tasks},
        generations=tuple(line.keys),
        stages=("base", *(stage.stage.name for stage in line.stages)),
        R=tuple(tuple(cell(index, n) for n in range(len(plan.tasks))) for index in range(len(line.keys))),
        groups={spec.task.name: spec.task.group for spec in plan.tasks if spec.task.group},
    )
