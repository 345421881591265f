"""Pseudo-samples: a task's inputs, written by the generator that was trained on them (SAPT, arXiv 2401.08295)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from clray.data import formatting
from clray.errors import ModelError
from clray.evaluation.batching import scoring
from clray.evaluation.generate import end_tokens, generating_under, write
from clray.lineage.key import digest
from clray.spec.format import Format

AT_ONCE = 32
"""Samples written together. Their draw depends on it, so it is no setting."""

Sample = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PseudoSpec:
    """`count` samples of the generator of that key, cut to `limit` tokens under the prompt template `form`."""

    generator: str
    count: int
    tokenizer: str
    tokenizer_digest: str
    form: Format
    limit: int
    precision: str
    top_k: int
    repetition_penalty: float
    seed: int

    @property
    def path(self) -> str:
        """Where the samples lie in the store: under everything that they depend on."""
        values = {**asdict(self), "form": self.form.model_dump(mode="json"), "tokenizer": ""}
        return f"pseudo/{digest(values)}.json"

    def receipt(self) -> dict[str, Any]:
        """Who wrote the samples, how many were asked for, and where they lie, for the generation's record."""
        return {"generator": self.generator, "asked": self.count, "file": self.path}


def write_samples(model: Any, tokenizer: PreTrainedTokenizerBase, spec: PseudoSpec, chunk: int) -> list[Sample]:
    """The samples of chunk number `chunk`: {"instruction", "input"}. They depend on the spec and that number alone.

    Sampled among the `top_k` likeliest tokens. One whose instruction does not end within the limit is left out; an
    input may run into it, as those do that the generator saw.
    """
    torch.manual_seed(int(np.random.SeedSequence([spec.seed, chunk]).generate_state(1)[0]))
    start = [formatting.start_token(tokenizer)]
    with scoring(model):
        asked = _write_on(model, tokenizer, [start] * AT_ONCE, spec)
        begun = [[*start, *tokens] for tokens, ended in asked if ended and len(tokens) < spec.limit - 2]
        given = _write_on(model, tokenizer, begun, spec)
    texts = tokenizer.batch_decode([tokens[1:] for tokens in begun], skip_special_tokens=True)
    inputs = tokenizer.batch_decode([tokens for tokens, _ in given], skip_special_tokens=True)
    return [
        {"instruction": text.strip(), "input": more.strip()}
        for text, more in zip(texts, inputs, strict=True)
        if text.strip() or more.strip()
    ]


def _write_on(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], spec: PseudoSpec
) -> list[tuple[list[int], bool]]:
    """What is sampled behind each prompt, up to and with its end token, and whether it has one."""
    if not prompts:
        return []
    ends = end_tokens(model, tokenizer)
    settings = GenerationConfig(
        do_sample=True,
        num_beams=1,
        top_k=spec.top_k,
        repetition_penalty=spec.repetition_penalty,
        max_new_tokens=spec.limit - max(map(len, prompts)),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        bos_token_id=tokenizer.bos_token_id,
    )
    with generating_under(model, settings):
        written, _ = write(model, prompts, settings)
    found = []
    for tokens in written:
        stop = next((t + 1 for t, token in enumerate(tokens) if token in ends), None)
        found.append((tokens[:stop], stop is not None))
    return found


def as_prompts(tokenizer: Any, samples: Sequence[Sample], spec: PseudoSpec) -> list[list[int]]:
    """Token ids of the prompts that the samples make under the template, cut to the limit."""
    form = spec.form.model_copy(update={"overlong": "truncate"})
    prompts = [formatting.encode_prompt(tokenizer, sample, form) for sample in samples]
    return [formatting.fit_prompt(prompt, 1, spec.limit, form, "pseudo-sample") or [] for prompt in prompts]


def record(spec: PseudoSpec, samples: Sequence[Sample], tried: int, tokenizer: Any) -> dict[str, Any]:
    """What is kept of the samples: the first `count`, as text and as prompts. ModelError where there is none."""
    kept = list(samples[: spec.count])
    if not kept:
        raise ModelError(
            f"the generator {spec.generator[:10]} wrote no sample that ends its instruction in {tried} tries; train it "
            "longer (reflection.generator.length), or reflect on real rows (reflection.source: rows)"
        )
    return {
        "generator": spec.generator,
        "asked": spec.count,
        "tried": tried,
        "samples": kept,
        "prompts": as_prompts(tokenizer, kept, spec),
    }
