"""What a round brought: its generation beside the one whose mistakes it learnt from, and whether the stage goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clray.evaluation.actors import ScoringPool
from clray.evaluation.evolution import compare, should_stop
from clray.evolving.mining import Watch, mined
from clray.evolving.round import RoundSpec
from clray.lineage.store import Store
from clray.spec.evolve import Stop

VERSION = 3
"""Of what ends a stage; a judgement by another one is made again, from the exams that are in the store."""


def judge(
    spec: RoundSpec, key: str, before: Sequence[dict[str, Any]], store: Store, pool: ScoringPool, watch: Watch
) -> dict[str, Any]:
    """What the round brought: generation `key` beside the one it started from, and why the stage ends here, if it does.

    `before` are the judgements of the stage's earlier rounds, in order. Kept in the store.
    """
    known = judgement_of(key, store, spec.round.stop, spec.exam.digest)
    if known:
        return known
    after = pool.examine(key, spec.exam, store, watch)
    manifest = mined(spec, store) or {}
    found = compare(pool.examine(spec.examined, spec.exam, store, watch), after, manifest.get("tokens_read") or None)
    history = [*(judgement["change"] for judgement in before), found]
    stop = spec.round.stop
    judgement = {
        "stage": spec.round.of,
        "round": spec.round.number,
        "examined": spec.examined,
        "exam": spec.exam.digest,
        "mined": spec.digest,
        "change": found,
        "rule": _rule(stop),
        "stop": should_stop(history, stop.delta, stop.flips),
    }
    store.write_json(f"evolved/{key}.json", judgement)
    return judgement


def judgement_of(key: str, store: Store, rule: Stop, exam: str | None = None) -> dict[str, Any] | None:
    """What was found of the round that made generation `key`; None where it was not judged yet by that stop rule (and
    in the exam of that digest)."""
    found: dict[str, Any] | None = store.read_json(f"evolved/{key}.json")
    if found is None or found.get("rule") != _rule(rule) or found["exam"] != (exam or found["exam"]):
        return None
    return found


def _rule(stop: Stop) -> dict[str, Any]:
    return {"version": VERSION, **stop.model_dump(mode="json")}


def end(key: str, why: str, store: Store) -> None:
    """Writes into the judgement of the round that made generation `key` that no further round is trained."""
    store.write_json(f"evolved/{key}.json", {**store.read_json(f"evolved/{key}.json"), "stop": why})


def said(judgement: dict[str, Any]) -> str:
    """A judgement in one sentence."""
    seen = judgement["change"]["heldout"]["likelihood"]
    text = f"held-out accuracy {seen['before']:.3f} -> {seen['after']:.3f}"
    if seen["repaired"] is not None:
        text += f", {seen['repaired']:.1%} of the wrong ones repaired"
    if seen["afr"] is not None:
        text += f", {seen['afr']:.1%} of the right ones turned wrong"
    return f"{text}; no further round: {judgement['stop']}" if judgement["stop"] else text
