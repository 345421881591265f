"""The verdicts of gates on generations, as they lie in a store.

verdicts/<key>/<question>.json    what one line of one stream said of the generation, under one gate; written whole

A generation may be in several lines, under several gates. What a line said last counts: `number` tells.
"""

from __future__ import annotations

from typing import Any

from clray.lineage.clock import now
from clray.lineage.gate import Verdict
from clray.lineage.store import Store

FOLDER = "verdicts"
ACCEPTED, REJECTED = "accepted", "rejected"


def verdict_of(store: Store, key: str, question: str) -> Verdict | None:
    """What was decided of the generation when that question was asked; None where it was not."""
    found = store.read_json(f"{FOLDER}/{key}/{question}.json")
    return Verdict.from_dict(found) if found else None


def keep(store: Store, key: str, question: str, stream: str, line: str, verdict: Verdict) -> None:
    """Keeps the verdict as the last one of that line of the stream; writes nothing where it is that already."""
    asked = [one for one in _all(store, key) if (one["stream"], one["line"]) == (stream, line)]
    newest = max(asked, key=lambda one: one["number"], default=None)
    if newest and newest["question"] == question and Verdict.from_dict(newest) == verdict:
        return
    value = {
        **verdict.to_dict(),
        "question": question,
        "stream": stream,
        "line": line,
        "number": newest["number"] + 1 if newest else 1,
        "judged": now(),
    }
    store.write_json(f"{FOLDER}/{key}/{question}.json", value)


def standing(store: Store, key: str) -> list[dict[str, Any]]:
    """What each line of each stream said last of the generation: the verdict's fields, `stream`, `line`, `judged`."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for one in sorted(_all(store, key), key=lambda one: int(one["number"])):
        last[one["stream"], one["line"]] = one
    return list(last.values())


def rejections(store: Store, key: str, stream: str | None = None) -> list[str]:
    """A sentence for each line (of the stream, where one is named) that does not accept the generation."""
    return [
        f"line '{one['line']}' of stream '{one['stream']}': {one['why']}"
        for one in standing(store, key)
        if not Verdict.from_dict(one).accepted and stream in (None, one["stream"])
    ]


def status(store: Store, key: str) -> str:
    """REJECTED where any line rejects it, ACCEPTED where all that were asked accept it, "" where none was asked."""
    found = standing(store, key)
    if not found:
        return ""
    return ACCEPTED if all(Verdict.from_dict(one).accepted for one in found) else REJECTED


def _all(store: Store, key: str) -> list[dict[str, Any]]:
    names = [name for name in store.list(f"{FOLDER}/{key}") if name.endswith(".json")]
    return [found for name in names if (found := store.read_json(f"{FOLDER}/{key}/{name}"))]
