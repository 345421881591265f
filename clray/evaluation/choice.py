"""Which of the given answers a model holds most likely: the prompt is read once for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from clray.errors import DataError
from clray.evaluation.batching import batches_by_length, max_positions, padded, scoring, target_log_probs
from clray.evaluation.selection import weights_now
from clray.models.projection import projected_at
from clray.models.routing import routed

Normalise = Literal["tokens", "none"]
SHARED = 0
PADDING = -1


@dataclass(frozen=True)
class ChoiceExample:
    """Token ids of a prompt and of each answer to choose from, and the number of the right answer."""

    prompt_ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    gold: int


@dataclass(frozen=True)
class Row:
    """Options first..last-1 of an example behind one copy of its prompt.

    An option's last token is predicted, never read, so options of one token cost nothing beyond the prompt.
    """

    example: int
    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    first: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt, then all but the last token of each option."""
        return (*self.prompt, *(token for option in self.options for token in option[:-1]))

    @property
    def branches(self) -> list[int]:
        """For each token SHARED (the prompt) or the number of its option, counted from 1."""
        tails = [k for k, option in enumerate(self.options, start=1) for _ in option[:-1]]
        return [SHARED] * len(self.prompt) + tails

    @property
    def positions(self) -> list[int]:
        """For each token its position in prompt + option, as if the option stood alone behind the prompt."""
        tails = [len(self.prompt) + t for option in self.options for t in range(len(option) - 1)]
        return [*range(len(self.prompt)), *tails]

    @property
    def predictors(self) -> list[int]:
        """For each token of each option in turn, the place in the row whose logits predict it."""
        places, at = [], len(self.prompt)
        for option in self.options:
            places += [len(self.prompt) - 1, *range(at, at + len(option) - 1)]
            at += len(option) - 1
        return places

    @property
    def is_plain(self) -> bool:
        """Whether at most one option has tokens in the row, so that the ordinary causal mask is right."""
        return sum(len(option) > 1 for option in self.options) <= 1


def score_choices(
    model: Any,
    examples: Sequence[ChoiceExample],
    batch_tokens: int,
    pad_id: int,
    normalise: Normalise = "tokens",
    greedy: bool = False,
) -> list[dict[str, Any]]:
    """For each example {"scores": [of each option], "prediction": int, "gold": int, "correct": bool}; with `greedy`
    also {"greedy": [whether each token of the option is the likeliest]}.

    A score is log p(option | prompt) in nats, summed over the option's tokens ("none") or their mean
    ("tokens", so that long answers are not at a disadvantage); the prediction is the highest, the first of
    equals. Results are in input order whatever the batching. Raises DataError where an example cannot be
    scored.
    """
    _check(examples, max_positions(model))
    room = packing_limit(model)
    rows = [row for i, example in enumerate(examples) for row in _rows(i, example, room)]
    sums = [[0.0] * len(example.options) for example in examples]
    likeliest = [[False] * len(example.options) for example in examples]
    selected: list[list[float] | None] = [None] * len(examples)
    with scoring(model):
        for plain in (False, True):
            kind = [row for row in rows if row.is_plain == plain]
            for batch in batches_by_length([len(row.ids) for row in kind], batch_tokens):
                _score_batch(
                    model, [kind[k] for k in batch], plain, pad_id, sums, selected, likeliest if greedy else None
                )
    results = [_result(*item, normalise) for item in zip(examples, sums, selected, strict=True)]
    return [{**one, "greedy": found} for one, found in zip(results, likeliest, strict=True)] if greedy else results


def packing_limit(model: Any) -> int | None:
    """The longest row in which options may share a prompt; 0 where they may not, None without a limit.

    A shared row needs an explicit mask and explicit positions to be obeyed: not so in flash attention, in
    ALiBi, or in layers that carry a state along the row. A mask of our own also hides a sliding window, so a
    shared row stays within it.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    obeys = (
        config._attn_implementation in ("eager", "sdpa", "varlen")
        and "position_ids" in inspect.signature(base.forward).parameters
        and not getattr(base, "_is_stateful", False)
        and not getattr(config, "alibi", False)
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    )
    if not obeys:
        return 0
    windows = (getattr(config, name, None) for name in ("sliding_window", "window_size"))
    return min((limit for limit in (max_positions(model), *windows) if limit), default=None)


def _rows(number: int, example: ChoiceExample, room: int | None) -> Iterator[Row]:
    """The example's options, in order, in as few rows as hold them; one too long to share stands alone."""
    row = Row(number, example.prompt_ids, example.options[:1], first=0)
    for k, option in enumerate(example.options[1:], start=1):
        longer = replace(row, options=(*row.options, option))
        if longer.is_plain or room is None or len(longer.ids) <= room:
            row = longer
        else:
            yield row
            row = Row(number, example.prompt_ids, (option,), first=k)
    yield row


def _score_batch(
    model: Any,
    rows: Sequence[Row],
    plain: bool,
    pad_id: int,
    sums: list[list[float]],
    selected: list[list[float] | None],
    likeliest: list[list[bool]] | None,
) -> None:
    """Puts the summed log p of each option of the rows into `sums[example][option]`, the weights of LoRA blocks under a
    shared attention into `selected[example]`, and whether greedy decoding writes it into `likeliest`, where given."""
    ids_BT = padded([row.ids for row in rows], pad_id, model.device)
    width = ids_BT.shape[1]
    inputs = {} if plain else _shared_inputs(rows, model)
    places = [number * width + place for number, row in enumerate(rows) for place in row.predictors]
    targets = [token for row in rows for option in row.options for token in option]
    # The last prompt token predicts the first token of every option: projected once.
    index_N, where = torch.unique(torch.tensor(places, device=ids_BT.device), return_inverse=True)
    prompt_BT = padded([row.branches for row in rows], PADDING, ids_BT.device) == SHARED
    with routed(model, prompt_BT), projected_at(model, index_N):
        logits_NV = model(input_ids=ids_BT, use_cache=False, **inputs).logits
        for row, weights in zip(rows, weights_now(model, len(rows)), strict=True):
            selected[row.example] = weights
    target_M = torch.tensor(targets, device=logits_NV.device)
    scores = target_log_probs(logits_NV, where, target_M).double().cpu()
    owners = [(row.example, row.first + k) for row in rows for k in range(len(row.options))]
    parts = torch.split(scores, [len(option) for row in rows for option in row.options])
    for (example, option), part in zip(owners, parts, strict=True):
        sums[example][option] = float(part.sum())
    if likeliest is not None:
        hits = (logits_NV.argmax(-1)[where] == target_M).cpu()
        for (example, option), hit in zip(owners, torch.split(hits, [len(part) for part in parts]), strict=True):
            likeliest[example][option] = bool(hit.all())


def _shared_inputs(rows: Sequence[Row], model: Any) -> dict[str, torch.Tensor]:
    """The mask (B, 1, T, T) and positions (B, T) under which an option sees the prompt and itself alone.

    The mask is additive, as eager attention of older architectures needs it. Padding sees the prompt, so that
    no row of the softmax is empty.
    """
    branch_BT = padded([row.branches for row in rows], PADDING, model.device)
    same = branch_BT[:, :, None] == branch_BT[:, None, :]
    seen = (same | (branch_BT == SHARED)[:, None, :]).tril()
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
    mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    positions_BT = padded([row.positions for row in rows], 0, model.device)
    return {"attention_mask": mask[:, None], "position_ids": positions_BT}


def _result(
    example: ChoiceExample, sums: list[float], weights: list[float] | None, normalise: Normalise
) -> dict[str, Any]:
    sizes = [len(option) if normalise == "tokens" else 1 for option in example.options]
    scores = [total / size for total, size in zip(sums, sizes, strict=True)]
    prediction = max(range(len(scores)), key=scores.__getitem__)
    return {
        "scores": scores,
        "prediction": prediction,
        "gold": example.gold,
        "correct": prediction == example.gold,
        **({} if weights is None else {"attention": weights}),
    }


def _check(examples: Sequence[ChoiceExample], limit: int | None) -> None:
    for number, example in enumerate(examples):
        if not example.prompt_ids or not example.options or not all(example.options):
            raise DataError(f"choice example {number} has an empty prompt, an empty option or none; each needs a token")
        if not 0 <= example.gold < len(example.options):
            raise DataError(f"choice example {number} says option {example.gold} is right, of {len(example.options)}")
        longest = len(example.prompt_ids) + max(map(len, example.options)) - 1
        if limit is not None and longest > limit:
            raise DataError(
                f"choice example {number} takes {longest} tokens with its longest option, "
                f"but the model takes {limit}; shorten it (format.overlong: truncate) or take a bigger model"
            )
