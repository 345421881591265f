"""How the documents of packed rows are kept apart: no token sees another document, in any kind of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from clray.errors import ModelError
from clray.models import varlen

PADDING = -1
KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers in which a mask keeps documents apart."""


def segment_ids(segments: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """Segment number of each position (B, T), PADDING beyond the end, from the segment lengths of each row."""
    ids = torch.full((len(segments), length), PADDING, dtype=torch.long)
    for row, lengths in enumerate(segments):
        numbers = np.repeat(np.arange(len(lengths)), lengths)
        ids[row, : len(numbers)] = torch.from_numpy(numbers)
    return ids


def positions(segments: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """Position of each token inside its own segment (B, T); 0 in the padding."""
    result = torch.zeros((len(segments), length), dtype=torch.long)
    for row, lengths in enumerate(segments):
        inside = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else np.zeros(0, dtype=np.int64)
        result[row, : len(inside)] = torch.from_numpy(inside)
    return result


def bounds(segments: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """Where each segment begins in the flattened (B*T) rows, and the end of the last: int32 (S + 1).

    The padding of a row is a segment of its own, since kernels that take bounds leave what lies in none undefined.
    """
    sizes = [np.append(lengths, length - np.sum(lengths, dtype=np.int64)) for lengths in segments]
    flat = np.concatenate(sizes)
    return torch.from_numpy(np.append(0, np.cumsum(flat[flat > 0])).astype(np.int32))


def block_causal(segment_ids_BT: torch.Tensor, dtype: torch.dtype, window: int | None = None) -> torch.Tensor:
    """Additive mask (B, 1, T, T): 0 where a token may look (itself and earlier, same segment), else the minimum.

    With a `window` a token sees itself and the `window - 1` before it. Additive rather than boolean, since eager
    attention of older architectures adds the mask to the scores. Padding looks at padding, so that no row is empty
    and no softmax is NaN.
    """
    same = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    length = segment_ids_BT.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BT.device).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    mask = torch.zeros(same.shape, dtype=dtype, device=segment_ids_BT.device)
    return mask.masked_fill_(~(same & seen), torch.finfo(dtype).min)[:, None]


def packed_inputs(model: Any, segment_ids_BT: torch.Tensor, bounds_S: torch.Tensor, longest: int) -> dict[str, Any]:
    """What the model's forward pass is given beside ids and positions, so that each document sees itself alone.

    FlashAttention takes the bounds of the segments and the `longest` one's length. SDPA takes no mask where every
    row is one full segment: plain causal attention is right then, and has a faster kernel. Everything else takes
    the dense mask, one for each kind of layer where some have a sliding window that is shorter than the row.
    """
    config = _text_config(model)
    if takes_bounds(config):
        sizes = {"cu_seq_lens_q": bounds_S, "cu_seq_lens_k": bounds_S}
        return {"attention_mask": None, **sizes, "max_length_q": longest, "max_length_k": longest}
    if config._attn_implementation == "sdpa" and len(bounds_S) - 1 == len(segment_ids_BT):
        return {"attention_mask": None}
    length = segment_ids_BT.shape[1]
    windows = {kind: _window(config, kind, length) for kind in _layer_kinds(config)}
    made = {window: block_causal(segment_ids_BT, model.dtype, window) for window in set(windows.values())}
    if len(made) == 1:
        return {"attention_mask": next(iter(made.values()))}
    return {"attention_mask": {kind: made[window] for kind, window in windows.items()}}


def takes_bounds(config: Any) -> bool:
    """Whether the attention of the configuration separates documents by bounds: FlashAttention of any origin."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    name = config._attn_implementation
    return name == varlen.NAME or ALL_MASK_ATTENTION_FUNCTIONS.get(name) is flash_attention_mask


def check_packing(model: Any) -> None:
    """Raises ModelError where documents in one row could not be kept apart in this model, or not here."""
    config, kind = _text_config(model), type(_base(model)).__name__
    if config._attn_implementation == varlen.NAME:
        varlen.require()
    unknown = sorted(set(_layer_kinds(config)) - KINDS)
    if getattr(_base(model), "_is_stateful", False) or unknown:
        what = f"layers of the kind {', '.join(unknown)}" if unknown else "layers with a state along the row"
        raise ModelError(
            f"{kind} has {what}, in which a packed document would see the one before it; give a model whose layers "
            "are attention, full or with a sliding window"
        )
    if takes_bounds(config) and not getattr(_base(model), "_supports_attention_backend", False):
        raise ModelError(
            f"model.attention: {kind} does not hand the bounds of packed documents to '{config._attn_implementation}'; "
            "say attention: auto, sdpa or eager"
        )


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _text_config(model: Any) -> Any:
    return _base(model).config.get_text_config()


def _layer_kinds(config: Any) -> Sequence[str]:
    named = getattr(config, "layer_types", None)
    return named or ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]


def _window(config: Any, kind: str, length: int) -> int | None:
    """Tokens that a layer of the kind sees back in a row of that length; None where that is all."""
    if kind == "chunked_attention" and config.attention_chunk_size < length:
        raise ModelError(
            f"sequence_length: a row of {length} tokens is longer than the {config.attention_chunk_size} that the "
            "model's chunked layers see (attention_chunk_size); say at most that"
        )
    window = config.sliding_window if kind == "sliding_attention" else None
    return window if window is not None and window < length else None
