"""`attention: varlen`: the FlashAttention that PyTorch brings along, over packed rows.

Nothing to install and nothing to compile, where `flash_attention_2` needs the flash-attn package. Imported, this
file makes the name known to transformers. Without bounds of documents (in evaluation) it is SDPA.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from clray.errors import ModelError

NAME = "varlen"
LEAST_CAPABILITY = (8, 0)


def missing() -> str | None:
    """What is lacking here for `attention: varlen`; None where nothing is."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return f"the device is older than compute capability {'.'.join(map(str, LEAST_CAPABILITY))}"
    if "window_size" not in PARAMETERS:
        return f"PyTorch is {torch.__version__}, and 2.11 is the first to have it"
    return None


def require() -> None:
    """Raises ModelError where `attention: varlen` cannot be used."""
    if lack := missing():
        raise ModelError(f"model.attention 'varlen' cannot be used: {lack}; say attention: auto")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of each segment with itself (B, T, H, D), as transformers calls it.

    Query is (B, H, T, D), key and value may have fewer heads. `cu_seq_lens_q` holds the bounds of the segments in
    the flattened (B*T) rows and `max_length_q` the length of the longest. Raises ModelError for what the kernel
    does not do: dropout, soft caps, attention sinks, fp32.
    """
    if extra := [name for name in ("softcap", "s_aux") if options.get(name) is not None]:
        raise ModelError(f"model.attention 'varlen' does not go with {', '.join(extra)}; say attention: eager")
    if cu_seq_lens_q is None or max_length_q is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output, None
    from torch.nn.attention.varlen import varlen_attn

    if dropout or query.dtype == torch.float32:
        what = "attention dropout" if dropout else "precision fp32"
        raise ModelError(f"model.attention 'varlen' does not go with {what}; say attention: auto")
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if "enable_gqa" in PARAMETERS else {}
    batch, _, length, _ = query.shape
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    packed: Any = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        **grouped,
    )
    return packed.unflatten(0, (batch, length)), None


def _parameters() -> frozenset[str]:
    """Names of what PyTorch's function takes: windows since 2.11; grouped heads must be announced since 2.12."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return frozenset()
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


PARAMETERS = _parameters()
AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
