"""A stage before its gate: the question as it is planned, the verdict, and the tries that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clray.errors import SpecError
from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.metrics import forgetting_max, group_delta, oriented
from clray.lineage import verdicts
from clray.lineage.gate import Decision, Verdict, decide
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.evolve import Round
from clray.spec.gate import Gate
from clray.spec.recipe import Recipe
from clray.spec.stream import Stage

VERSION = 1
COUNTS = ("rows", "rows_per_past_task")
Column = tuple[str, str, str | None, int | None]
"""A task as gates see it: digest, metric, group, and the row of the generation that teaches it; None: no stage does."""
Waiting = list[tuple[Stage, int]]
"""Stages still to come, each with the number of tries before."""


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """The gate of a planned stage, in its try number `attempt` (0 the first): what is asked, and by whom.

    `question` is the address of the verdict below the generation; it does not depend on tasks that nothing limits.
    """

    gate: Gate
    attempt: int
    can_replay: bool
    stream: str
    line: str
    question: str


def gate_spec(
    gate: Gate, attempt: int, can_replay: bool, stream: str, line: str, index: int, columns: Sequence[Column]
) -> GateSpec:
    """The gate of generation `index` of a line that is measured on these tasks."""
    judged = [
        (*column[:3], column[3] if column[3] and column[3] < index else None)
        for column in columns
        if column[2] in gate.max_delta or (gate.max_forgetting is not None and column[3] and column[3] < index)
    ]
    asked = [VERSION, gate.model_dump(mode="json"), attempt, can_replay, stream, line, index, sorted(judged, key=str)]
    return GateSpec(
        gate=gate, attempt=attempt, can_replay=can_replay, stream=stream, line=line, question=digest(asked, 16)
    )


def check_gate(stage: Stage, gate: Gate | None, recipe: Recipe, first: bool) -> None:
    """Raises SpecError where the gate cannot do what it says with this stage."""
    if gate is None:
        return
    if isinstance(stage.evolve, Round) and stage.evolve.half:
        raise SpecError(
            f"stage '{stage.evolve.of}': a gate judges whole rounds, and evolve.control cpt_then_cit makes two "
            "generations of each; give this stage gate: null, or another control"
        )
    replay = recipe.inheritance["replay"][0]  # as it was asked for, whether or not there is a past
    if gate.on_fail != "raise_replay" or first:
        return
    if replay["kind"] == "none":
        raise SpecError(
            f"stage '{stage.name}': gate.on_fail raise_replay needs a replay to raise, and method.replay is none; give "
            "it one, say method.replay: {kind: random, share: 0.1}, or another on_fail"
        )
    share, most = replay.get("share"), gate.raise_by**gate.retries
    if share is not None and share * most >= 1:
        raise SpecError(
            f"stage '{stage.name}': a replay share of {share:g} raised {gate.retries} times by {gate.raise_by:g} would "
            f"be {share * most:g} of the mixture, which must stay below 1; lower one of the three"
        )


def raised(recipe: Recipe, gate: Gate | None, attempt: int) -> Recipe:
    """The recipe of a stage's try number `attempt`: its replay's share or rows times `raise_by` for each try before."""
    if gate is None or attempt == 0:
        return recipe
    factor, replay = gate.raise_by**attempt, dict(recipe.resolved["replay"])
    if replay.get("share") is not None:
        replay["share"] = round(replay["share"] * factor, 9)
    replay |= {name: round(replay[name] * factor) for name in COUNTS if replay.get(name) is not None}
    return Recipe(
        resolved={**recipe.resolved, "replay": replay},
        inheritance={**recipe.inheritance, "replay": (replay, "gate")},
    )


def verdict_of(asked: GateSpec | None, key: str, store: Store) -> Verdict | None:
    """The verdict on generation `key`; None without a gate, or where it was not judged yet."""
    return verdicts.verdict_of(store, key, asked.question) if asked else None


def judge(asked: GateSpec, made: Generation, matrix: ScoreMatrix, before: Sequence[Verdict]) -> Verdict:
    """The verdict on the generation of the matrix's last row; `before` are those on the rejected tries of its stage."""
    falls = falls_of(matrix, asked.gate)
    decision, why = decide(asked.gate, falls, asked.attempt, asked.can_replay)
    return Verdict(
        decision=decision,
        why=why,
        falls=falls,
        attempt=asked.attempt,
        tokens=made.training.get("tokens", 0),
        seconds=made.training.get("seconds", 0.0),
        tokens_before=sum(one.tokens for one in before),
        seconds_before=sum(one.seconds for one in before),
    )


def falls_of(matrix: ScoreMatrix, gate: Gate) -> dict[str, dict[str, float]]:
    """How far the last generation has fallen in all that the gate limits, by metric, as far as that is defined."""
    found: dict[str, dict[str, float]] = {}
    for metric in matrix.units:
        part = matrix.of(metric)
        turned = oriented(part.R, part.lower_is_better)
        if gate.max_forgetting is not None and any(row and row < len(turned) - 1 for row in part.learned_rows):
            found.setdefault("forgetting", {})[metric] = forgetting_max(turned, part.learned_rows)
        for group, columns in part.columns_of.items():
            if group in gate.max_delta:
                found.setdefault(f"delta {group}", {})[metric] = -group_delta(turned, columns)
    return found


def after(decision: Decision, stage: Stage, attempt: int, waiting: Waiting) -> Waiting:
    """What is still to come after a generation of the stage that was not accepted."""
    match decision:
        case Decision.STOP:
            return []
        case Decision.RAISE_REPLAY:
            return [(stage, attempt + 1), *waiting]
        case _:
            return [(other, tries) for other, tries in waiting if not _same(other, stage)]


def _same(one: Stage, other: Stage) -> bool:
    """Whether both are rounds of one evolve stage: the later would only learn from the same mistakes again."""
    rounds = (one.evolve, other.evolve)
    return all(isinstance(each, Round) for each in rounds) and rounds[0].of == rounds[1].of  # type: ignore[union-attr]


def said(verdict: Verdict) -> str:
    """A verdict in one sentence, with what it cost."""
    word = "accepted" if verdict.accepted else "rejected"
    text = f"{word} by its gate: {verdict.why}"
    if not verdict.accepted:
        text += f"; this try cost {verdict.tokens:,} tokens, {verdict.seconds:.1f} s"
    if verdict.tokens_before:
        text += f"; the tries before it cost {verdict.tokens_before:,} tokens, {verdict.seconds_before:.1f} s"
    return text
