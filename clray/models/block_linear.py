"""One linear module with a stack of LoRA blocks beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from clray.models.routing import Routing


@dataclass(frozen=True)
class BlockShape:
    """Rank and alpha of a block, which is multiplied by alpha / rank (Hu et al., arXiv 2106.09685)."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


class BlockLinear(nn.Module):
    """base(x) + sum_i w_i (alpha_i / r_i) B_i A_i x, computed as one pair of products of rank R = sum(r_i).

    The old blocks are the buffers `old_A` (R_old, in) and `old_B` (out, R_old), without gradient or optimiser state;
    the new one is `A` (r, in), kaiming-uniform, and `B` (out, r), zero, where a stage trains. The weights w are those
    of the model's `routing`. With `detach_old` no gradient passes through old blocks to lower layers, as in SAPT's
    code; that of the weights is exact either way. Dropout is on the input of all blocks, one mask for all.
    """

    old_A: torch.Tensor
    old_B: torch.Tensor
    A: nn.Parameter | None
    B: nn.Parameter | None

    def __init__(
        self,
        base: nn.Linear | Conv1D,
        name: str,
        old: Sequence[BlockShape],
        new: BlockShape | None,
        routing: Routing,
        *,
        dropout: float = 0.0,
        detach_old: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base, self.name, self.routing = base, name, routing
        self.dropout, self.detach_old = dropout, detach_old
        self.in_features, self.out_features = features(base)
        weight = base.weight
        rank = sum(shape.rank for shape in old)
        self.register_buffer("old_A", weight.new_zeros(rank, self.in_features))
        self.register_buffer("old_B", weight.new_zeros(self.out_features, rank))
        self.register_parameter("A", nn.Parameter(weight.new_empty(new.rank, self.in_features)) if new else None)
        self.register_parameter("B", nn.Parameter(weight.new_zeros(self.out_features, new.rank)) if new else None)
        if self.A is not None:
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output (..., out) for x (..., in); (B, L, in) where an attention weighs the blocks."""
        result: torch.Tensor = self.base(x)
        factor = self.routing.factor(x)
        x = F.dropout(x, self.dropout, self.training)
        if self.A is None or self.B is None:
            return result + low_rank(x, self.old_A, self.old_B, factor)
        rank = len(self.old_A)
        if rank and self.routing.state.want_penalty:
            self.routing.state.overlaps[self.name] = F.linear(self.old_A.float(), self.A.float())
        if not rank:
            return result + low_rank(x, self.A, self.B, factor)
        if self.detach_old:
            result = result + low_rank(x.detach(), self.old_A, self.old_B, factor[..., :rank])
            return result + low_rank(x, self.A, self.B, factor[..., rank:])
        stacked: torch.Tensor = _Stacked.apply(x, self.old_A, self.A, self.old_B, self.B, factor)
        return result + stacked

    def extra_repr(self) -> str:
        """The ranks, for printing."""
        return f"old_rank={len(self.old_A)}, new_rank={0 if self.A is None else len(self.A)}"


def low_rank(x: torch.Tensor, A: torch.Tensor, B: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """((x A^T) * factor) B^T. The factor is fp32, since alpha / rank rounded to bf16 would bias every output."""
    hidden = F.linear(x, A)
    return F.linear((hidden * factor).to(hidden.dtype), B)


class _Stacked(torch.autograd.Function):
    """`low_rank` of old and new blocks in one pair of products, with gradients of the new block's A and B alone.

    Plain autograd through the concatenation would compute those of all R ranks, and drop all but the new ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, old_A: Any, A: Any, old_B: Any, B: Any, factor: Any) -> Any:
        every_A, every_B = torch.cat([old_A, A]), torch.cat([old_B, B], 1)
        hidden = F.linear(x, every_A)
        ctx.save_for_backward(x, hidden, every_A, every_B, factor)
        ctx.rank = len(A)
        return F.linear((hidden * factor).to(hidden.dtype), every_B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        x, hidden, every_A, every_B, factor = ctx.saved_tensors
        new = slice(-ctx.rank, None)
        weighed = gradient @ every_B
        plain = (weighed * factor).to(hidden.dtype)
        to_x = plain @ every_A if ctx.needs_input_grad[0] else None
        to_A = plain[..., new].flatten(0, -2).T @ x.flatten(0, -2)
        last = (hidden[..., new] * factor[..., new]).to(hidden.dtype)
        to_B = gradient.flatten(0, -2).T @ last.flatten(0, -2)
        to_factor = (weighed.float() * hidden).sum_to_size(factor.shape) if ctx.needs_input_grad[5] else None
        return to_x, None, to_A, None, to_B, to_factor


def features(base: nn.Linear | Conv1D) -> tuple[int, int]:
    """The sizes of the module's input and output: v_proj is narrower than q_proj under grouped-query attention."""
    if isinstance(base, Conv1D):
        return int(base.nx), int(base.nf)
    return base.in_features, base.out_features
