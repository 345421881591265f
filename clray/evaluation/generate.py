"""What a model writes when asked, and how well it matches the references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from clray.errors import DataError
from clray.evaluation.batching import batches_by_length, max_positions, padded, scoring
from clray.evaluation.sampling import Drawn, Sampling
from clray.evaluation.selection import weights_now
from clray.evaluation.text import exact_match, rouge_l
from clray.models.routing import routed


@dataclass(frozen=True)
class GenerateExample:
    """Token ids of a prompt, and the texts that are right answers to it."""

    prompt_ids: tuple[int, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What was written, without its end token; whether it has one; the weights of the model's blocks, if it has any."""

    text: str
    ended: bool
    weights: list[float] | None = None


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
    prompts = [example.prompt_ids for example in examples]
    written = write_all(model, tokenizer, prompts, max_new_tokens, batch_tokens)
    return [_result(*item) for item in zip(examples, written, strict=True)]


def write_all(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_tokens: int,
    sampling: Sampling | None = None,
    until: Sequence[str] | None = None,
) -> list[Written]:
    """What the model writes behind each prompt, greedily or with the given draws: the same whatever the batching.

    With `until` an answer also ends before the first of these texts, and keeps the spaces around it.
    """
    ends = end_tokens(model, tokenizer)
    found: dict[int, Written] = {}
    for limit, group in _room(prompts, max_new_tokens, max_positions(model)).items():
        settings = _greedy_settings(tokenizer, ends, limit)
        sizes = [len(prompts[i]) + limit for i in group]
        with scoring(model), generating_under(model, settings):
            for batch in batches_by_length(sizes, batch_tokens):
                chosen = [group[k] for k in batch]
                drawn = sampling.of(chosen) if sampling else None
                stop = Stop(tokenizer, until) if until else None
                answers, selected = write(model, [prompts[i] for i in chosen], settings, drawn, stop)
                for i, tokens, weights in zip(chosen, answers, selected, strict=True):
                    found[i] = _written(tokenizer, tokens, weights, ends, until)
    return [found[i] for i in range(len(prompts))]


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


def _room(prompts: Sequence[Sequence[int]], wanted: int, positions: int | None) -> dict[int, list[int]]:
    """Prompt numbers by the new tokens they have room for, so that batching decides no answer's length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        size = len(prompt)
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


class Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer once one of the texts stands in it."""

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer, self._until = tokenizer, [text for text in until if text]
        self._tail = 4 * max(map(len, self._until), default=0)  # a character takes four tokens at most
        self._begun: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Whether each answer (B) is ended."""
        if self._begun is None:
            self._begun = input_ids.shape[1] - 1
        written = input_ids[:, max(self._begun, input_ids.shape[1] - self._tail) :]
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        ended = [any(text in written for text in self._until) for written in texts]
        return torch.tensor(ended, device=input_ids.device)


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    sampling: Sampling | None = None,
    stop: Stop | None = None,
) -> tuple[list[list[int]], list[list[float]] | list[None]]:
    """The new tokens of each prompt, with the padding behind shorter answers, and the weights of its blocks."""
    ids = padded(prompts, settings.pad_token_id, model.device, left=True)
    mask = padded([[1] * len(prompt) for prompt in prompts], 0, model.device, left=True)
    drawn = LogitsProcessorList([Drawn(sampling, ids.shape[1], ids.device)] if sampling else [])
    with routed(model, mask):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=drawn,
            stopping_criteria=StoppingCriteriaList([stop] if stop else []),
        )
        selected = weights_now(model, len(prompts))
    answers: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return answers, selected


def _written(
    tokenizer: Any, tokens: list[int], weights: list[float] | None, ends: list[int], until: Sequence[str] | None
) -> Written:
    stop = next((t for t, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:stop], skip_special_tokens=True)
    if until is None:
        return Written(text.strip(), stop is not None, weights)
    cut = min((at for each in until if each and (at := text.find(each)) >= 0), default=None)
    return Written(text[:cut], stop is not None or cut is not None, weights)


def _result(example: GenerateExample, written: Written) -> dict[str, Any]:
    return {
        "prediction": written.text,
        "references": list(example.references),
        "exact_match": exact_match(written.text, example.references),
        "rouge_l": rouge_l(written.text, example.references),
        "answered": written.ended,
        **({} if written.weights is None else {"attention": written.weights}),
    }
