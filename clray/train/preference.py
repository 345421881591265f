"""The loss of preference pairs: DPO (Rafailov et al., arXiv 2305.18290, eq. 7) and its variants, see `spec.align`."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

CHOSEN, REJECTED = 0, 1


class PreferenceLoss:
    """The loss of pairs under the settings of an align stage, and what is to be seen of them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.names = ["reward_margin", "reward_accuracy", "chosen_log_prob", "rejected_log_prob"]
        if settings["likelihood"]:
            self.names += ["loss_preference", "loss_likelihood"]

    def __call__(
        self, logits_NV: torch.Tensor, labels_N: torch.Tensor, halves_N: torch.Tensor, references_S: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of the pairs, in fp32, and (K, 2) the sum of each of `names` over the pairs and their
        number.

        `halves_N` is the half 0..S-1 that each target belongs to, chosen and rejected in turn; `references_S` is log p
        of each half's targets by the reference. The reward margin is m of `Align`; the log-probabilities are in nats,
        of whole answers.
        """
        log_probs_N = -functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
        sums_S = log_probs_N.new_zeros(len(references_S)).index_add(0, halves_N, log_probs_N)
        lengths_S = halves_N.bincount(minlength=len(references_S))
        log_probs_P2, lengths_P2 = sums_S.view(-1, 2), lengths_S.view(-1, 2)
        margin_P = self._margin(log_probs_P2 - references_S.view(-1, 2), lengths_P2)
        smoothing = self.settings["label_smoothing"]
        loss_P = -(1 - smoothing) * functional.logsigmoid(margin_P) - smoothing * functional.logsigmoid(-margin_P)
        seen = [margin_P, margin_P > 0, log_probs_P2[:, CHOSEN], log_probs_P2[:, REJECTED]]
        if self.settings["likelihood"]:
            likelihood_P = -log_probs_P2[:, CHOSEN] / lengths_P2[:, CHOSEN]
            seen += [loss_P, likelihood_P]
            loss_P = loss_P + self.settings["likelihood"] * likelihood_P
        sums_K = torch.stack([each.detach().float().sum() for each in seen])
        return loss_P.sum(), torch.stack([sums_K, torch.full_like(sums_K, len(loss_P))], 1)

    def _margin(self, ratios_P2: torch.Tensor, lengths_P2: torch.Tensor) -> torch.Tensor:
        """beta * (log-ratio of the chosen answer - that of the rejected one), of each pair."""
        if self.settings["loss"] == "length_normalised":
            ratios_P2 = ratios_P2 / lengths_P2
        margin: torch.Tensor = self.settings["beta"] * (ratios_P2[:, CHOSEN] - ratios_P2[:, REJECTED])
        return margin
