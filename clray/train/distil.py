"""Distance of a model's predictions from an earlier generation's, of which the largest few are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

ELEMENTS_AT_ONCE = 1 << 24
"""Entries of the fp32 copies of logits that are there at one time."""


@dataclass(frozen=True)
class Distillation:
    """How far a model is from its teacher: by KL divergence or squared logits, times a weight.

    Of the teacher's prediction at a target `top_k` tokens are kept. For KL all other tokens count as one more, so that
    it is at most the whole divergence, and equal to it where top_k is the vocabulary.
    """

    weight: float
    top_k: int
    temperature: float = 1.0
    squared: bool = False

    def known(self, logits_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is kept of a teacher's logits: tokens (N, K), and values (N, K + 1) in fp32.

        The values are log-probabilities at the temperature, the last one that of all other tokens; or the logits
        themselves, and 0.
        """
        found = [self._known(part) for part in logits_NV.split(_positions(logits_NV))]
        ids, values = zip(*found, strict=True)
        return torch.cat(ids), torch.cat(values)

    def sum(self, logits_NV: torch.Tensor, ids_NK: torch.Tensor, values_NK1: torch.Tensor) -> torch.Tensor:
        """The sum of the distances over the N targets, weighed, in fp32; targets of token -1 have no teacher.

        Logits are taken some positions at a time, and their fp32 copies made again in the backward pass.
        """
        size = _positions(logits_NV)
        parts = zip(logits_NV.split(size), ids_NK.split(size), values_NK1.split(size), strict=True)
        sums = [checkpoint(self._sum, *part, use_reentrant=False) for part in parts]
        return self.weight * torch.stack(sums).sum()

    def _known(self, logits_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.squared:
            top, ids_NK = logits_NV.float().topk(self.top_k)
            return ids_NK, torch.cat([top, torch.zeros_like(top[:, :1])], 1)
        log_NV = torch.log_softmax(logits_NV.float() / self.temperature, -1)
        top, ids_NK = log_NV.topk(self.top_k)
        return ids_NK, torch.cat([top, _others(log_NV, ids_NK)], 1)

    def _sum(self, logits_NV: torch.Tensor, ids_NK: torch.Tensor, values_NK1: torch.Tensor) -> torch.Tensor:
        taught_N, ids_NK = ids_NK[:, 0] >= 0, ids_NK.clamp(min=0)
        if self.squared:
            apart_NK = logits_NV.gather(1, ids_NK).float() - values_NK1[:, :-1]
            return apart_NK.square().mean(1)[taught_N].sum()
        log_NV = torch.log_softmax(logits_NV.float() / self.temperature, -1)
        log_NK1 = torch.cat([log_NV.gather(1, ids_NK), _others(log_NV, ids_NK)], 1)
        return self.temperature**2 * divergence(values_NK1, log_NK1)[taught_N].sum()


def divergence(teacher_NC: torch.Tensor, student_NC: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) (N) in nats, of log-probabilities over C events: the teacher's logarithm comes first, and
    its probabilities weigh. An event that the teacher gives no probability counts nothing."""
    apart_NC = torch.where(teacher_NC.isneginf(), 0.0, teacher_NC - student_NC)
    return (teacher_NC.exp() * apart_NC).sum(-1)


def distillation(regulariser: dict[str, Any]) -> Distillation:
    """That of a resolved regulariser `lwf` or `der`."""
    return Distillation(
        weight=regulariser["weight"],
        top_k=regulariser["top_k"],
        temperature=regulariser.get("temperature", 1.0),
        squared=regulariser.get("loss") == "mse",
    )


def _others(log_NV: torch.Tensor, ids_NK: torch.Tensor) -> torch.Tensor:
    """Log-probability (N, 1) of all tokens but those, without the rounding of 1 - p; -inf where there are no others."""
    if ids_NK.shape[1] == log_NV.shape[1]:
        return log_NV.new_full((len(log_NV), 1), -torch.inf)
    return log_NV.scatter(1, ids_NK, -torch.inf).logsumexp(-1, keepdim=True)


def _positions(logits_NV: torch.Tensor) -> int:
    return max(1, ELEMENTS_AT_ONCE // logits_NV.shape[1])
