"""What a round brought: its generation beside the one whose mistakes it learnt from, and whether the stage goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clray.evaluation.actors import ScoringPool
from clray.evaluation.evolution import Result, compare, kind_of, should_stop
from clray.evolving.mining import Watch, mined
from clray.evolving.round import RoundSpec
from clray.lineage.store import Store
from clray.spec.evolve import Round, Stop

VERSION = 2
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
        "stop": should_stop(history, stop.delta, stop.flips) or nothing_left(spec.round, after),
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


def nothing_left(asked: Round, after: Sequence[Result]) -> str | None:
    """Why the set of a next round would be empty, or None: no mistake is left, or where one round in two halves or
    `cpt_only` reads by itself, none that anything is read for."""
    kinds = [kind_of(result, asked.mining.entropy, asked.mining.margin) for result in after if not result["heldout"]]
    idle = {"known", "schema"} if asked.control == "cpt_only" or asked.half else {"known"}
    if set(kinds) - idle:
        return None
    unread = (
        f"; {kinds.count('schema')} lack the form alone, which is not learnt by reading" if "schema" in kinds else ""
    )
    return f"it knows the answers of all {len(kinds)} questions to learn from, and is sure of them{unread}"


def said(judgement: dict[str, Any]) -> str:
    """A judgement in one sentence."""
    seen = judgement["change"]["heldout"]["likelihood"]
    text = f"held-out accuracy {seen['before']:.3f} -> {seen['after']:.3f}"
    if seen["repaired"] is not None:
        text += f", {seen['repaired']:.1%} of the wrong ones repaired"
    if seen["afr"] is not None:
        text += f", {seen['afr']:.1%} of the right ones turned wrong"
    return f"{text}; no further round: {judgement['stop']}" if judgement["stop"] else text
