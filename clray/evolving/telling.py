"""What is told of a round: its funnel, what it changed, and a few questions with the passages they were given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clray.data import questions
from clray.data.manifest import Manifest
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.mining.shelf import Shelf

EXAMPLES = 5
"""Questions of each kind that are told."""
COUNTS = ("questions", "mistakes", "points", "passages", "leaking_passages", "rows", "tokens_read")


def told(made: Generation, store: Store) -> dict[str, Any] | None:
    """What a report shows of the round that made the generation; None where none did, or it was not judged."""
    receipt: dict[str, Any] = made.receipt.get("round") or {}
    judgement = store.read_json(f"evolved/{made.key}.json")
    manifest = store.read_json(f"{receipt.get('set')}/manifest.json")
    if not receipt or judgement is None or manifest is None:
        return None
    return {
        "stage": judgement["stage"],
        "round": judgement["round"],
        "control": receipt["control"],
        **{name: manifest[name] for name in COUNTS},
        "leaks": len(manifest["leaks"]),
        "change": judgement["change"],
        "stop": judgement["stop"],
        "examples": _examples(made, receipt, manifest, store),
    }


def _examples(made: Generation, receipt: dict[str, Any], manifest: dict[str, Any], store: Store) -> dict[str, Any]:
    """Some questions that were repaired, are still wrong, turned wrong: first those that passages were found for."""
    before, after = (
        {result["name"]: result for result in store.read_json(f"exams/{key}/{receipt['exam']}.json") or []}
        for key in (receipt["examined"], made.key)
    )
    asked = {one.name: one for one in questions.load(store, receipt["questions"])}
    names = sorted(before.keys() & after.keys(), key=lambda name: (not manifest["given"].get(name), name))

    def some(was: bool, now: bool) -> list[dict[str, Any]]:
        fit = (n for n in names if before[n]["likeliest_right"] is was and after[n]["likeliest_right"] is now)
        return [example(name) for _, name in zip(range(EXAMPLES), fit, strict=False)]

    def example(name: str) -> dict[str, Any]:
        one = asked[name]
        return {
            "question": one.text,
            "options": list(one.options),
            "gold": one.gold,
            "heldout": one.heldout,
            "before": _answer(before[name]),
            "after": _answer(after[name]),
            "points": manifest["looked_up"].get(name, []),
            "passages": _passages(manifest, manifest["given"].get(name, []), store),
        }

    return {"repaired": some(False, True), "still_wrong": some(False, False), "flipped": some(True, False)}


def _answer(result: dict[str, Any]) -> dict[str, Any]:
    return {"written": result["written"], "p_gold": result["p"][result["gold"]]}


def _passages(manifest: dict[str, Any], digests: Iterable[str], store: Store) -> list[dict[str, str]]:
    wanted = list(digests)
    knowledge = Manifest.load(store, f"knowledge/{manifest['knowledge']}") if wanted else None
    found = Shelf(store, knowledge).passages(wanted) if knowledge else []
    return [{"title": passage.title, "text": passage.text} for passage in found]
