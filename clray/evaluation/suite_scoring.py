"""How a scoring actor responds to the requests of a suite; lm-evaluation-harness is not needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clray.evaluation.choice import ChoiceExample, score_choices
from clray.evaluation.generate import write_all
from clray.evaluation.perplexity import Document, score_documents


@dataclass(frozen=True)
class SuiteExample:
    """What a suite asks of one document, all of one kind: `loglikelihood` of answers behind their prompts,
    `loglikelihood_rolling` of a text, or an answer written (`generate_until`).

    `parts` are prompts in token ids, each with its answers; a text or a prompt to write behind has none.
    """

    ask: str
    parts: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...]
    until: tuple[str, ...] = ()
    max_new_tokens: int = 0


def respond(
    model: Any, tokenizer: Any, examples: Sequence[SuiteExample], context: int, batch_tokens: int, pad_id: int
) -> list[dict[str, Any]]:
    """For each document {"responses": one a request}, as lm-eval's models give them: [log p in nats, whether greedy
    decoding writes the answer], log p of a text, or what was written up to the first of `until`. With a shared
    attention over LoRA blocks also {"attention"}, where an answer was scored or written."""
    first = examples[0]
    match first.ask:
        case "loglikelihood":
            return _choices(model, examples, batch_tokens, pad_id)
        case "loglikelihood_rolling":
            texts = [Document(ids=example.parts[0][0], num_bytes=0) for example in examples]
            found = score_documents(model, texts, context, context, batch_tokens, pad_id, full_last=True)
            return [{"responses": [-one["nll"]]} for one in found]
        case _:
            prompts = [example.parts[0][0] for example in examples]
            written = write_all(model, tokenizer, prompts, first.max_new_tokens, batch_tokens, until=first.until)
            return [_with({"responses": [one.text]}, one.weights) for one in written]


def _choices(model: Any, examples: Sequence[SuiteExample], batch_tokens: int, pad_id: int) -> list[dict[str, Any]]:
    asked = [ChoiceExample(prompt, answers, gold=0) for example in examples for prompt, answers in example.parts]
    scored = iter(score_choices(model, asked, batch_tokens, pad_id, normalise="none", greedy=True))
    results = []
    for example in examples:
        parts = list(islice(scored, len(example.parts)))
        pairs = [list(pair) for part in parts for pair in zip(part["scores"], part["greedy"], strict=True)]
        results.append(_with({"responses": pairs}, parts[0].get("attention")))
    return results


def _with(result: dict[str, Any], weights: list[float] | None) -> dict[str, Any]:
    return result if weights is None else {**result, "attention": weights}
