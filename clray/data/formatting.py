"""How a record becomes tokens. Training and measuring go through here, so they see the same text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.errors import DataError
from clray.spec.format import Format

LEAST_PROMPT = 8
"""Tokens of a prompt that must remain where it is cut."""


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each whether it is a target of the loss."""

    ids: list[int]
    targets: list[bool]


def start_token(tokenizer: Any) -> int:
    """The token that every sequence starts with: bos, else eos, so that the first real token is predicted."""
    return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)


def padding_token(tokenizer: Any) -> int:
    """The token that fills rows of a batch, which nothing looks at: the tokenizer's own, else eos."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of the bare text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def encode_document(tokenizer: Any, text: str) -> Encoded:
    """A document between start and end tokens; all but the start token are targets."""
    ids = [start_token(tokenizer), *text_ids(tokenizer, text), tokenizer.eos_token_id]
    return Encoded(ids, [False] + [True] * (len(ids) - 1))


def prompt_text(record: dict[str, Any], form: Format) -> str:
    """The prompt of an instruction record under a text template; an empty input leaves no gap."""
    text = form.prompt.replace("{instruction}", str(record.get("instruction", "")).strip("\n "))
    given = str(record.get("input") or "")
    if not given:
        text = text.replace("\n\n{input}", "").replace("\n{input}", "")
    return text.replace("{input}", given)


def instruction_text(record: dict[str, Any]) -> str:
    """What an instruction record asks for, its input left out: its instruction, else (in a chat) the system
    message, else the first user turn; "" for plain text."""
    turns = {m["role"]: m["content"] for m in reversed(record.get("messages", []))}
    return str(record.get("instruction") or turns.get("system") or turns.get("user") or "").strip()


def question(record: dict[str, Any]) -> tuple[str, str]:
    """Instruction and input of an instruction record; in a chat, its last user turn is the input, unless it is what
    asks."""
    asked = instruction_text(record)
    turns = [m["content"].strip() for m in record.get("messages", []) if m["role"] == "user"]
    given = str(record.get("input") or "") if "messages" not in record else turns[-1] if turns else ""
    return asked, "" if given == asked else given


def encode_question(tokenizer: Any, record: dict[str, Any], limit: int) -> Encoded:
    """Instruction and input, each ended by the end-of-sequence token, cut to `limit` tokens: what a generator of
    pseudo-samples learns to write. All but the start token are targets."""
    ids = [start_token(tokenizer)]
    for part in question(record):
        ids += [*text_ids(tokenizer, part), tokenizer.eos_token_id]
    ids = ids[:limit]
    return Encoded(ids, [False] + [True] * (len(ids) - 1))


def encode_prompt(tokenizer: Any, record: dict[str, Any], form: Format) -> list[int]:
    """Token ids of everything before the answer."""
    if form.prompt == "chat" or "messages" in record:
        messages = _messages(record)
        prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        return _chat_ids(tokenizer, prompt, generation=True)
    return [start_token(tokenizer), *text_ids(tokenizer, prompt_text(record, form))]


def encode_answer(tokenizer: Any, answer: str, form: Format) -> list[int]:
    """Token ids of an answer as it follows the prompt, with the end-of-sequence token."""
    text = answer if form.prompt == "chat" else form.answer.replace("{output}", answer)
    return [*text_ids(tokenizer, text), tokenizer.eos_token_id]


def encode_example(tokenizer: Any, record: dict[str, Any], form: Format, limit: int, place: str) -> Encoded | None:
    """Prompt and answer of at most `limit` tokens, loss on the answer only; None where it is to be left out.

    Chat records with several assistant turns take loss on each of them. Raises DataError where an example
    is longer than `limit` and the format says `overlong: error`.
    """
    if "messages" in record:
        encoded = _encode_chat(tokenizer, record, place)
        if len(encoded.ids) <= limit:
            return encoded
        first = encoded.targets.index(True)
        prompt, answer = encoded.ids[:first], encoded.ids[first:]
        if not all(encoded.targets[first:]) and form.overlong != "skip":
            raise DataError(
                f"{place}: the conversation has {len(encoded.ids)} tokens, {limit} fit; raise "
                "sequence_length, shorten it, or set format.overlong=skip"
            )
    else:
        prompt = encode_prompt(tokenizer, record, form)
        answer = encode_answer(tokenizer, str(record["output"]), form)
    fitted = fit_prompt(prompt, len(answer), limit, form, place)
    if fitted is None:
        return None
    return Encoded(fitted + answer, [False] * len(fitted) + [True] * len(answer))


def fit_prompt(prompt: list[int], answer: int, limit: int, form: Format, place: str) -> list[int] | None:
    """The prompt cut so that `answer` more tokens fit into `limit`; None where the example is left out.

    `overlong: truncate` cuts the middle out: instructions stand at the start, the call for the answer at
    the end. At least LEAST_PROMPT tokens of prompt must remain.
    """
    room = limit - answer
    if len(prompt) <= room:
        return prompt
    if form.overlong == "skip":
        return None
    if form.overlong == "error" or room < LEAST_PROMPT:
        raise DataError(
            f"{place}: the prompt ({len(prompt)} tokens) leaves no room for its answer ({answer} tokens) in "
            f"{limit} tokens; {overlong_remedy(room)}"
        )
    return without_middle(prompt, room)


def overlong_remedy(room: int) -> str:
    """What to do about an example that is too long, where `room` tokens are left for its prompt: cutting needs some."""
    return f"raise sequence_length, or set format.overlong to {'skip' if room < LEAST_PROMPT else 'truncate or skip'}"


def without_middle(ids: list[int], size: int) -> list[int]:
    """The first and the last of the ids, `size` in all."""
    head = (size + 1) // 2
    return ids[:head] + ids[len(ids) - (size - head) :]


def _messages(record: dict[str, Any]) -> list[dict[str, str]]:
    if "messages" in record:
        return list(record["messages"])
    content = "\n\n".join(part for part in (record.get("instruction"), record.get("input")) if part)
    return [{"role": "user", "content": content}]


def _chat_ids(tokenizer: Any, messages: list[dict[str, str]], generation: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template; give format.prompt a text template with "
            "{instruction} and {input}, or use records with instruction and output"
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    return text_ids(tokenizer, text)


def encode_turn(tokenizer: Any, messages: list[dict[str, str]], answer: str, place: str) -> list[int]:
    """Token ids of the assistant's answer to the messages, as the chat template writes it behind their prompt.

    Raises DataError where the template writes the prompt otherwise when the answer follows.
    """
    before = _chat_ids(tokenizer, messages, generation=True)
    after = _chat_ids(tokenizer, [*messages, {"role": "assistant", "content": answer}], generation=False)
    if after[: len(before)] != before or len(after) == len(before):
        raise DataError(
            f"{place}: the chat template rewrites the prompt when an answer follows, so the answer cannot be told "
            "apart; give prompt, chosen and rejected as text, with a format.prompt template"
        )
    return after[len(before) :]


def _encode_chat(tokenizer: Any, record: dict[str, Any], place: str) -> Encoded:
    messages = record["messages"]
    ids: list[int] = []
    targets: list[bool] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _chat_ids(tokenizer, messages[:turn], generation=True)
        after = _chat_ids(tokenizer, messages[: turn + 1], generation=False)
        if after[: len(before)] != before or before[: len(ids)] != ids:
            raise DataError(
                f"{place}: the chat template rewrites earlier turns, so the loss cannot be limited to "
                f"turn {turn + 1}; keep only the last assistant turn in a record"
            )
        targets += [False] * (len(before) - len(ids)) + [True] * (len(after) - len(before))
        ids = after
    return Encoded(ids, targets)
