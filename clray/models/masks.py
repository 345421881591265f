"""Attention masks of packed sequences: no token sees another document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

PADDING = -1


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


def block_causal(segment_ids_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (B, 1, T, T): 0 where a token may look (itself and earlier, same segment), else the minimum.

    Additive rather than boolean, since eager attention of older architectures adds the mask to the scores.
    Padding looks at padding, so that no row is empty and no softmax is NaN.
    """
    same = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    length = segment_ids_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BT.device).tril()
    mask = torch.zeros(same.shape, dtype=dtype, device=segment_ids_BT.device)
    return mask.masked_fill_(~(same & causal), torch.finfo(dtype).min)[:, None]
