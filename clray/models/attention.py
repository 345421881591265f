"""The attention over LoRA blocks that one instance's prompt decides: SAPT (arXiv 2401.08295, section 3).

Beside the paper's code: one SiLU, after the pair of linear maps, as there; always divided by sqrt(d), without its
switch of temperatures; the maximum is over prompt tokens alone, so that padding and other documents never matter (there
padding counts); reflection is a mean over old tasks (there a sum), so that its weight keeps its meaning as tasks come;
queries are made of what sets a prompt apart from the mean of all tasks (there of the prompt as it is), since maxima
over many tokens have far more in common than not, and queries then are all alike (REPRODUCE.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

Output = Literal["weights", "logits", "query"]


class SharedAttention(nn.Module):
    """One query projection phi that all tasks share, and one key a block: the old keys frozen, the newest trained.

    q = LayerNorm(SiLU(up down (e - centre) / scale)), z_i = k_i . q / sqrt(d), w = softmax(z), computed in fp32 in any
    precision of the model. `old_keys` (T - 1, d), `centre` (d) and `scale` (1) are buffers that stay fp32; `key`
    (1, d), uniform in [-1, 1], is there where a stage trains. Parameters are used in `forward` alone, as ZeRO-3 needs
    it; norm weights are its own for the same reason.
    """

    old_keys: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor
    key: nn.Parameter | None

    def __init__(
        self,
        size: int,
        num_old: int,
        *,
        trained: bool,
        query_rank: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.down = nn.Parameter(torch.empty(query_rank, size, dtype=torch.float32), requires_grad=trained)
        self.up = nn.Parameter(torch.empty(size, query_rank, dtype=torch.float32), requires_grad=trained)
        self.norm_weight = nn.Parameter(torch.ones(size, dtype=torch.float32), requires_grad=trained)
        self.norm_bias = nn.Parameter(torch.zeros(size, dtype=torch.float32), requires_grad=trained)
        self.register_buffer("old_keys", torch.zeros(num_old, size, dtype=torch.float32))
        self.register_buffer("centre", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(1, dtype=torch.float32))
        for weight in (self.down, self.up):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        self.register_parameter("key", nn.Parameter(torch.empty(1, size, dtype=torch.float32)) if trained else None)
        if self.key is not None:
            nn.init.uniform_(self.key, -1.0, 1.0, generator=generator)

    def forward(self, pooled_Nd: torch.Tensor, output: Output = "weights") -> torch.Tensor:
        """Weights (N, T) of the blocks, oldest first, that sum to 1; or their logits (N, T); or the queries (N, d)."""
        apart_Nd = (pooled_Nd.float() - self.centre) / self.scale
        hidden = F.linear(F.linear(apart_Nd, self.down.float()), self.up.float())
        query_Nd = F.layer_norm(F.silu(hidden), (self.size,), self.norm_weight.float(), self.norm_bias.float())
        if output == "query":
            return query_Nd
        keys_Td = self.old_keys if self.key is None else torch.cat([self.old_keys, self.key.float()])
        logits_NT = F.linear(query_Nd, keys_Td) / math.sqrt(self.size)
        return logits_NT if output == "logits" else logits_NT.softmax(-1)

    def logits(self, pooled_Nd: torch.Tensor) -> torch.Tensor:
        """The logits z (N, T), through `forward`, so that hooks on it see the call."""
        logits: torch.Tensor = self(pooled_Nd, "logits")
        return logits

    def _apply(self, fn: Any, recurse: bool = True) -> SharedAttention:
        """Keeps the buffers in fp32 where the model is cast, as DeepSpeed does: rounded keys would route old inputs
        differently from stage to stage."""
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, exact in before.items():
            if getattr(self, name).dtype != exact.dtype:
                setattr(self, name, exact.to(getattr(self, name).device))
        return self


@torch.no_grad()
def pooled_prompts(
    embedding_BLd: torch.Tensor, prompt_BL: torch.Tensor, segments_BL: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum over the prompt tokens of each instance in fp32 (N, d), without gradient, and each token's instance.

    An instance is a row or, where `segments_BL` numbers them, one segment of a row; the second result (B, L) is an
    index into the first. The padding of a row is a segment of its own. An instance without prompt tokens has zeros,
    and so the same weights for all blocks, whatever else is in the batch.
    """
    prompt_BL = prompt_BL.bool()
    rows, length, size = embedding_BLd.shape
    row_BL = torch.arange(rows, device=prompt_BL.device)[:, None].expand(rows, length)
    if segments_BL is None:
        pooled_Nd, index_BL = embedding_BLd.masked_fill(~prompt_BL[..., None], -torch.inf).amax(1), row_BL
    else:
        number_BL = segments_BL - segments_BL.min()
        instances, index_BL = torch.unique(number_BL + row_BL * (number_BL.max() + 1), return_inverse=True)
        pooled_Nd = embedding_BLd.new_full((len(instances), size), -torch.inf)
        found_Md, where_M = embedding_BLd[prompt_BL], index_BL[prompt_BL]
        pooled_Nd.scatter_reduce_(0, where_M[:, None].expand_as(found_Md), found_Md, "amax")
    return pooled_Nd.masked_fill(pooled_Nd == -torch.inf, 0.0).float(), index_BL


def reflection(
    attention: SharedAttention, memory: Sequence[tuple[torch.Tensor, torch.Tensor]], rows: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The mean over old tasks i of KL([target_i; 0 ...] || softmax(z(x))), itself a mean over the task's rows of x.

    `memory` holds for each old task its pooled inputs (n_i, d) and its recorded attention, without an entry for blocks
    that came later; `rows` says for each which of the inputs this batch takes. A task without rows counts as 0 in the
    mean; zeros in a target add nothing. The gradient reaches phi and the new key. SAPT, attentive reflection.
    """
    if not memory:
        return attention.old_keys.new_zeros(())
    device = attention.old_keys.device
    taken = [pooled.to(device)[index.to(device)] for (pooled, _), index in zip(memory, rows, strict=True)]
    logs_NT = attention.logits(torch.cat(taken)).log_softmax(-1)
    total = logs_NT.sum() * 0.0
    for (_, target), part_NT in zip(memory, logs_NT.split([len(part) for part in taken]), strict=True):
        target_T = F.pad(target.to(device).float(), (0, logs_NT.shape[1] - len(target)))
        if len(part_NT):
            total = total + torch.xlogy(target_T, target_T).sum() - (part_NT @ target_T).mean()
    return total / len(memory)


@torch.no_grad()
def mean_query(attention: SharedAttention, pooled_Nd: torch.Tensor) -> torch.Tensor:
    """The mean (d) of the instances' queries."""
    queries_Nd: torch.Tensor = attention(pooled_Nd.to(attention.old_keys.device), "query")
    return queries_Nd.mean(0)


@torch.no_grad()
def centre_on(attention: SharedAttention, tasks: Sequence[torch.Tensor]) -> None:
    """Lets queries see prompts relative to the mean of all tasks, in units of their spread around it.

    `tasks` are pooled prompts (n_i, d) of each task, the new one's last; each counts alike. The spread is the root of
    the mean square over prompts and dimensions. Ours, not the paper's. The centre moves as tasks come; reflection keeps
    the earlier ones' attention where it was. The first task's key has decided nothing before the second comes, so it is
    placed then, at its mean query. For a model that no engine holds yet.
    """
    attention.centre.copy_(torch.stack([pooled_Nd.mean(0) for pooled_Nd in tasks]).mean(0))
    spread = torch.stack([(pooled_Nd - attention.centre.cpu()).square().mean() for pooled_Nd in tasks]).mean().sqrt()
    attention.scale.fill_(float(spread) or 1.0)
    if len(tasks) == 2 and len(attention.old_keys) == 1:
        attention.old_keys.copy_(mean_query(attention, tasks[0])[None])


@torch.no_grad()
def initialise_key(attention: SharedAttention, pooled_Nd: torch.Tensor) -> None:
    """Puts the new key at the mean query of the new task's instances, against a gate that never opens.

    Ours, not the paper's, whose key starts uniform in [-1, 1]: phi arrives routed to older blocks, and reflection
    pushes old inputs away from the new key. For a model that no engine holds yet.
    """
    assert attention.key is not None, "the attention has no new key: no stage trains it"
    attention.key.copy_(mean_query(attention, pooled_Nd)[None])
