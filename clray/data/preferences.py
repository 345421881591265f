"""Preference records: a prompt with the answer that is preferred and the one that is not, as tokens of one example."""

from __future__ import annotations

from typing import Any

from clray.data import formatting
from clray.errors import DataError
from clray.spec.format import Format

Messages = list[dict[str, str]]


def normalise(record: dict[str, Any], place: str) -> dict[str, Any]:
    """The pair in one shape: `instruction` and `input`, or `messages`, as a prompt; `chosen` and `rejected` as text.

    A prompt is text (beside an `instruction` it is the input), instruction and input as elsewhere, or chat messages. An
    answer is text, or messages of which the last is the assistant's and those before it, the same in both, are (the
    rest of) the prompt. Raises DataError where a part is missing or empty, the answers are the same, or their prompts
    are not.
    """
    given = record.get("prompt")
    before = _messages(given, "prompt", place) if isinstance(given, list) else None
    heads, answers = zip(*(_answer(record.get(side), side, place) for side in ("chosen", "rejected")), strict=True)
    if heads[0] != heads[1]:
        raise DataError(f"{place}: 'chosen' and 'rejected' answer different prompts; a pair has one prompt")
    if answers[0].strip() == answers[1].strip():
        raise DataError(f"{place}: 'chosen' and 'rejected' are the same, which prefers nothing; leave the record out")
    pair = dict(zip(("chosen", "rejected"), answers, strict=True))
    if before is not None or heads[0]:
        return {"messages": _asking([*(before or []), *heads[0]], place), **pair}
    asked = record.get("instruction")
    if given is None and asked:
        given = record.get("input")
        return {"instruction": _filled(asked, "instruction", place), **({"input": given} if given else {}), **pair}
    prompt = _filled(given, "prompt", place)
    split = {"instruction": asked, "input": prompt} if asked and asked != prompt else {"instruction": prompt}
    return {**split, **pair}


def _answer(value: Any, side: str, place: str) -> tuple[Messages, str]:
    """The messages before an answer, and the answer."""
    if not isinstance(value, list):
        return [], _filled(value, side, place)
    *before, last = _messages(value, side, place)
    if last["role"] != "assistant":
        raise DataError(f"{place}: the last message of '{side}' must be the assistant's, found {last['role']!r}")
    return before, _filled(last["content"], side, place)


def _filled(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None else repr(value)[:40]
        raise DataError(
            f"{place}: '{field}' must be text, or a list of {{role, content}}, and not empty; found {found}. A pair "
            f"has prompt, chosen and rejected; map other names with fields: {{{field}: NAME}}"
        )
    return value


def _messages(value: list[Any], field: str, place: str) -> Messages:
    fits = value and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )
    if not fits:
        raise DataError(f"{place}: '{field}' must be text, or a list of {{role, content}}, and not empty")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _asking(messages: Messages, place: str) -> Messages:
    if messages[-1]["role"] == "assistant":
        raise DataError(f"{place}: the prompt ends with the assistant's turn, so nothing is left to answer")
    return messages


def parts(tokenizer: Any, record: dict[str, Any], form: Format, place: str) -> tuple[list[int], list[int], list[int]]:
    """Token ids of prompt, chosen answer and rejected answer, as training and measuring see them; nothing is cut."""
    prompt = formatting.encode_prompt(tokenizer, record, form)
    chosen, rejected = (_answer_ids(tokenizer, record, record[side], form, place) for side in ("chosen", "rejected"))
    return prompt, chosen, rejected


def _answer_ids(tokenizer: Any, record: dict[str, Any], answer: str, form: Format, place: str) -> list[int]:
    if "messages" in record:
        return formatting.encode_turn(tokenizer, record["messages"], answer, place)
    return formatting.encode_answer(tokenizer, answer, form)


def encode(
    tokenizer: Any, record: dict[str, Any], form: Format, limit: int, place: str
) -> tuple[formatting.Encoded, int] | None:
    """Prompt and chosen answer, then prompt and rejected answer, of at most `limit` tokens together, the answers as
    targets; and how many of the tokens the first half has. None where it is to be left out.

    Raises DataError where it is longer than `limit` and the format says `overlong: error`, or the answers alone are.
    """
    prompt, chosen, rejected = parts(tokenizer, record, form, place)
    room = (limit - len(chosen) - len(rejected)) // 2
    if len(prompt) > room:
        if form.overlong == "skip":
            return None
        if form.overlong == "error" or room < formatting.LEAST_PROMPT:
            raise DataError(
                f"{place}: the pair takes {2 * len(prompt) + len(chosen) + len(rejected)} tokens (twice its prompt of "
                f"{len(prompt)}, answers of {len(chosen)} and {len(rejected)}), which stand in one sequence of "
                f"{limit}; {formatting.overlong_remedy(room)}"
            )
        prompt = formatting.without_middle(prompt, room)
    both = [prompt, chosen, prompt, rejected]
    targets = [bool(number % 2) for number, ids in enumerate(both) for _ in ids]
    return formatting.Encoded([token for ids in both for token in ids], targets), len(prompt) + len(chosen)
