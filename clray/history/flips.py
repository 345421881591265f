"""Answers that turned right or wrong between two generations, with the question in words where it can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clray.lineage.store import Store

PROMPT_CHARACTERS = 160


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An example whose answer was right in one generation and wrong in the other; texts as far as they are known."""

    number: int
    became: str
    prompt: str
    wanted: str
    before: str
    after: str


def flips(
    store: Store, tokenizer: str, task: str, scorer: str, before: Sequence[Any], after: Sequence[Any], most: int
) -> dict[str, Any]:
    """How many answers turned right and wrong, and the first `most` of each; empty for a scorer without answers."""
    if not before or _right(scorer, before[0]) is None:
        return {}
    turned: dict[str, list[int]] = {"right": [], "wrong": []}
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if _right(scorer, old) != _right(scorer, new):
            turned["right" if _right(scorer, new) else "wrong"].append(number)
    texts = _Texts(store, tokenizer, task)
    shown = [
        asdict(_flip(texts, scorer, number, became, before[number], after[number]))
        for became in ("wrong", "right")
        for number in turned[became][:most]
    ]
    return {**{name: len(numbers) for name, numbers in turned.items()}, "examples": shown}


def _right(scorer: str, result: dict[str, Any]) -> bool | None:
    """Whether the answer is right; None where the scorer looks at none."""
    if scorer == "suite":
        values = result["values"]
        found = next((values[name][0] for name in ("acc", "exact_match") if name in values), None)
        return None if found is None else bool(found)
    field = {"choice": "correct", "preference": "correct", "generate": "exact_match"}.get(scorer)
    return None if field is None else bool(result[field])


def _flip(texts: _Texts, scorer: str, number: int, became: str, old: Any, new: Any) -> Flip:
    if scorer in ("choice", "preference"):
        wanted, *said = (texts.option(number, place) for place in (new["gold"], old["prediction"], new["prediction"]))
    else:
        wanted = new["gold"] if scorer == "suite" else new["references"][0]
        said = [old["prediction"], new["prediction"]]
    return Flip(number=number, became=became, prompt=texts.prompt(number), wanted=wanted, before=said[0], after=said[1])


class _Texts:
    """The task's prompts and options as text. They lie in the store as tokens; without a fast tokenizer beside them,
    options go by their number and prompts stay empty."""

    def __init__(self, store: Store, tokenizer: str, task: str) -> None:
        self._examples: list[dict[str, Any]] = store.read_json(f"tasks/{task}/examples.json") or []
        self._decoder: Any = None
        if self._examples and store.exists(f"tokenizers/{tokenizer}/tokenizer.json"):
            from tokenizers import Tokenizer

            self._decoder = Tokenizer.from_str(store.read_bytes(f"tokenizers/{tokenizer}/tokenizer.json").decode())

    def prompt(self, number: int) -> str:
        """The last characters of the prompt, on one line."""
        if self._decoder is None:
            return ""
        example = self._examples[number]
        ids = example["parts"][0][0] if "parts" in example else example["prompt_ids"]
        text = " ".join(self._decoder.decode(ids).split())
        return text if len(text) <= PROMPT_CHARACTERS else f"... {text[-PROMPT_CHARACTERS:]}"

    def option(self, number: int, place: int) -> str:
        """The option at that place."""
        if self._decoder is None:
            return f"option {place}"
        return str(self._decoder.decode(self._examples[number]["options"][place])).strip()
