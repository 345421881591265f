"""How well a model predicts documents: strided windows, every token scored exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clray.errors import ModelError
from clray.evaluation.batching import batches_by_length, max_positions, padded, scoring, target_log_probs
from clray.models.projection import projected_at
from clray.models.routing import routed


@dataclass(frozen=True)
class Document:
    """Token ids, the first of them the start token (not scored), and the size of the text in bytes."""

    ids: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class Window:
    """Inputs ids[start:stop] of a document; the predictions from position `first` on are scored."""

    document: int
    start: int
    stop: int
    first: int


def score_documents(
    model: Any,
    documents: Sequence[Document],
    context: int,
    stride: int,
    batch_tokens: int,
    pad_id: int,
    full_last: bool = False,
) -> list[dict[str, float | int]]:
    """For each document {"nll": sum of -log p in nats, "tokens": scored tokens, "bytes": bytes of its text}.

    Windows of `context` input tokens start every `stride` tokens, and each scores what the ones before it
    have not: a token is scored once, and sees at least context - stride tokens where its document has them. With
    `full_last` the last window reaches back as far as the context allows (with a stride of `context` these are the
    rolling windows of lm-evaluation-harness).
    Results are in input order whatever the batching. Raises ModelError where the context is beyond the
    model's positions, ValueError where the stride is not in 1..context.
    """
    _check(model, context, stride)
    windows = [w for i, d in enumerate(documents) for w in windows_of(i, len(d.ids), context, stride, full_last)]
    nll = [0.0] * len(documents)
    sizes = [window.stop - window.start for window in windows]
    with scoring(model):
        for batch in batches_by_length(sizes, batch_tokens):
            chosen = [windows[k] for k in batch]
            for window, value in zip(chosen, _window_nll(model, documents, chosen, pad_id), strict=True):
                nll[window.document] += value
    return [
        {"nll": value, "tokens": max(0, len(document.ids) - 1), "bytes": document.num_bytes}
        for value, document in zip(nll, documents, strict=True)
    ]


def windows_of(document: int, num_ids: int, context: int, stride: int, full_last: bool = False) -> Iterator[Window]:
    """The windows of a document: input t predicts id t + 1, so the last id is never an input."""
    inputs, start, done = num_ids - 1, 0, 0
    while done < inputs:
        stop = min(start + context, inputs)
        yield Window(document, max(0, stop - context) if full_last else start, stop, done)
        start, done = start + stride, stop


def _window_nll(model: Any, documents: Sequence[Document], windows: Sequence[Window], pad_id: int) -> list[float]:
    """The summed -log p of each window's scored tokens. Causal attention never sees padding on the right; a shared
    attention over LoRA blocks sees what comes before the first scored token."""
    ids = padded([documents[w.document].ids[w.start : w.stop] for w in windows], pad_id, model.device)
    width = ids.shape[1]
    index = [row * width + t - w.start for row, w in enumerate(windows) for t in range(w.first, w.stop)]
    targets = [token for w in windows for token in documents[w.document].ids[w.first + 1 : w.stop + 1]]
    index_N = torch.tensor(index, device=ids.device)
    prompt_BT = padded([[1] * (w.first - w.start + 1) for w in windows], 0, ids.device)
    prompt_BT = torch.nn.functional.pad(prompt_BT, (0, width - prompt_BT.shape[1])).bool()
    with routed(model, prompt_BT), projected_at(model, index_N):
        logits_NV = model(input_ids=ids, use_cache=False).logits
    target_N = torch.tensor(targets, device=logits_NV.device)
    scores = target_log_probs(logits_NV, torch.arange(len(index), device=target_N.device), target_N)
    return [-float(part.sum()) for part in torch.split(scores.double().cpu(), [w.stop - w.first for w in windows])]


def _check(model: Any, context: int, stride: int) -> None:
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}; it must be in 1..context, and context is {context}")
    limit = max_positions(model)
    if limit is not None and context > limit:
        raise ModelError(
            f"the context of the perplexity is {context} tokens, but the model takes {limit}; give {limit} or fewer"
        )
