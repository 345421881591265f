"""Sampling with given numbers: what is drawn for a row does not depend on the batch that it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """The temperature, and for each prompt a number in [0, 1) for each token that may be written."""

    temperature: float
    draws: Sequence[Sequence[float]]

    def of(self, prompts: Sequence[int]) -> Sampling:
        """The same for these of the prompts alone."""
        return Sampling(self.temperature, [self.draws[number] for number in prompts])


class Drawn(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token a row: the one where the row's number stands in the cumulative softmax (inverse transform).

    PyTorch's own sampling draws for a whole batch from one generator, so that neighbours would decide.
    """

    def __init__(self, sampling: Sampling, begun: int, device: torch.device) -> None:
        self._temperature = sampling.temperature
        self._draws_BT = torch.tensor(sampling.draws, dtype=torch.float64, device=device)
        self._begun = begun

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) of minus infinity but for the drawn token."""
        step = input_ids.shape[1] - self._begun
        sums_BV = (scores.float() / self._temperature).softmax(-1).double().cumsum(-1)
        mark_B1 = self._draws_BT[:, step : step + 1] * sums_BV[:, -1:]
        drawn_B1 = torch.searchsorted(sums_BV, mark_B1, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn_B1, 0.0)
