"""What a model writes when asked, and how well it matches the references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from clray.errors import DataError
from clray.evaluation.batching import batches_by_length, max_positions, padded, scoring
from clray.evaluation.selection import weights_now
from clray.evaluation.text import exact_match, rouge_l
from clray.models.routing import routed


@dataclass(frozen=True)
class GenerateExample:
    """Token ids of a prompt, and the texts that are right answers to it."""

    prompt_ids: tuple[int, ...]
    references: tuple[str, ...]


def generate_answers(
    model: Any, tokenizer: Any, examples: Sequence[GenerateExample], max_new_tokens: int, batch_tokens: int
) -> list[dict[str, Any]]:
    """For each example {"prediction", "references", "exact_match", "rouge_l", "answered"}; the prompt is cut
    off. With a shared attention over LoRA blocks also {"attention"}, their weights.

    Greedy whatever the model's own generation settings say, with a KV cache. "answered" is whether the model
    ended its answer itself, rather than ran into the limit. Results are in input order whatever the batching.
    An answer is at most `max_new_tokens` tokens and what the model's positions leave; DataError where that is
    none.
    """
    room = _room(examples, max_new_tokens, max_positions(model))
    ends = end_tokens(model, tokenizer)
    written: list[list[int]] = [[] for _ in examples]
    weights: list[list[float] | None] = [None] * len(examples)
    for limit, group in room.items():
        settings = _greedy_settings(tokenizer, ends, limit)
        sizes = [len(examples[i].prompt_ids) + limit for i in group]
        with scoring(model), generating_under(model, settings):
            for batch in batches_by_length(sizes, batch_tokens):
                chosen = [group[k] for k in batch]
                answers, selected = write(model, [examples[i].prompt_ids for i in chosen], settings)
                for i, tokens, weight in zip(chosen, answers, selected, strict=True):
                    written[i], weights[i] = tokens, weight
    return [_result(tokenizer, *item, ends) for item in zip(examples, written, weights, strict=True)]


@contextmanager
def generating_under(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """A context in which these are the model's own generation settings.

    Settings handed to `generate` are completed from the model's own (a repetition penalty, a forced token),
    so it takes both to be sure of plain greedy decoding.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, base.generation_config = base.generation_config, settings
    try:
        yield
    finally:
        base.generation_config = own


def _room(examples: Sequence[GenerateExample], wanted: int, positions: int | None) -> dict[int, list[int]]:
    """Example numbers by the new tokens they have room for, so that batching decides no answer's length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, example in enumerate(examples):
        size = len(example.prompt_ids)
        limit = wanted if positions is None else min(wanted, positions - size)
        if not size or limit < 1:
            raise DataError(
                f"generate example {number} has a prompt of {size} tokens; it needs 1 or more, "
                f"and room for an answer in the model's {positions} positions: shorten the prompt "
                "(format.overlong: truncate)"
            )
        groups[limit].append(number)
    return groups


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """All tokens that end an answer: the tokenizer's, and the model's own (chat models have several)."""
    own = model.generation_config.eos_token_id
    several = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (tokenizer.eos_token_id, *several) if token is not None})


def _greedy_settings(tokenizer: Any, ends: list[int], limit: int) -> GenerationConfig:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    values = {"do_sample": False, "num_beams": 1, "use_cache": True, "max_new_tokens": limit}
    tokens = {"eos_token_id": ends or None, "pad_token_id": pad, "bos_token_id": tokenizer.bos_token_id}
    return GenerationConfig.from_dict({**values, **tokens})


def write(
    model: Any, prompts: Sequence[Sequence[int]], settings: GenerationConfig
) -> tuple[list[list[int]], list[list[float]] | list[None]]:
    """The new tokens of each prompt, with the padding behind shorter answers, and the weights of its blocks."""
    ids = padded(prompts, settings.pad_token_id, model.device, left=True)
    mask = padded([[1] * len(prompt) for prompt in prompts], 0, model.device, left=True)
    with routed(model, mask):
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        selected = weights_now(model, len(prompts))
    answers: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return answers, selected


def _result(
    tokenizer: Any, example: GenerateExample, tokens: list[int], weights: list[float] | None, ends: list[int]
) -> dict[str, Any]:
    stop = next((t for t, token in enumerate(tokens) if token in ends), None)
    prediction = tokenizer.decode(tokens[:stop], skip_special_tokens=True).strip()
    return {
        "prediction": prediction,
        "references": list(example.references),
        "exact_match": exact_match(prediction, example.references),
        "rouge_l": rouge_l(prediction, example.references),
        "answered": stop is not None,
        **({} if weights is None else {"attention": weights}),
    }
