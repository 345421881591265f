"""Attention by bounds of segments in plain PyTorch, where the CUDA kernels of FlashAttention would stand."""

from __future__ import annotations

import torch


def attend(query, key, value, bounds, scale, window):
    """Causal attention of each segment with itself: query (N, H, D), key and value (N, K, D), bounds (S + 1).

    A token sees itself and the `window` before it; -1 is all of them.
    """
    return torch.cat([(p @ v).transpose(0, 1) for p, _, _, v in _segments(query, key, value, bounds, scale, window)])


def attend_backward(grad, query, key, value, bounds, scale, window):
    """Gradients of query, key and value, written out: an operator's kernel cannot call autograd."""
    found, start = [], 0
    for p, q, k, v in _segments(query, key, value, bounds, scale, window):
        out = grad[start : start + q.shape[1]].transpose(0, 1)
        start += q.shape[1]
        inner = out @ v.transpose(1, 2)
        scores = p * (inner - (inner * p).sum(-1, keepdim=True)) * scale
        found.append([x.transpose(0, 1) for x in (scores @ k, scores.transpose(1, 2) @ q, p.transpose(1, 2) @ out)])
    whole = [torch.cat(parts) for parts in zip(*found, strict=True)]
    heads = (query.shape[1], key.shape[1], value.shape[1])
    return tuple(x.unflatten(1, (n, -1)).sum(2) for x, n in zip(whole, heads, strict=True))


def _segments(query, key, value, bounds, scale, window):
    """Probabilities (H, n, n), query, key and value (H, n, D) of each segment."""
    assert int(bounds[0]) == 0 and int(bounds[-1]) == len(query), "the bounds must cover every token"
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        seen = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
        seen = seen if window < 0 else seen.triu(-window)
        yield (q @ k.transpose(1, 2) * scale).masked_fill(~seen, float("-inf")).softmax(-1), q, k, v


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False, window_size=None
):
    """The function of that name in the flash-attn package, for whole segments."""
    assert causal and torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    return attend(q, k, v, cu_seqlens_q, softmax_scale, window_size[0] if window_size else -1)


def flash_attn_func(*_, **__):
    """The function without bounds, which packed rows must never reach."""
    raise AssertionError("packed rows reached flash attention without their bounds")
