"""Sampled answers: those of the plain loop, alike in any batch, and distributed as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clray.evaluation.generate import write_all
from clray.evaluation.sampling import Drawn, Sampling

RANDOM = np.random.default_rng(0)
PROMPTS = [tuple(RANDOM.integers(40, 90, size).tolist()) for size in (1, 9, 4, 9, 20, 2, 62, 13)]
DRAWS = RANDOM.random((len(PROMPTS), 6)).tolist()


def sampled(model, prompt, temperature, draws, end=2):
    """Tokens drawn one forward pass at a time by the inverse of the cumulative distribution."""
    ids = list(prompt)
    for number in draws:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        sums = (logits / temperature).softmax(-1).cumsum(-1)
        ids.append(int((sums <= number * sums[-1]).sum()))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]


def test_answers_are_those_of_the_plain_loop_and_the_same_in_any_batch(any_model, words):
    sampling = Sampling(0.7, DRAWS)
    alone = write_all(any_model, words, PROMPTS, 6, 1, sampling)
    for prompt, draws, written in zip(PROMPTS, DRAWS, alone, strict=True):
        tokens = sampled(any_model, prompt, 0.7, draws[: 64 - len(prompt)])
        assert written.text == words.decode(tokens, skip_special_tokens=True).strip()
        assert written.ended == (tokens[-1] == 2)
    for budget in (60, 10_000):
        torch.rand(3)
        assert write_all(any_model, words, PROMPTS, 6, budget, sampling) == alone
    assert write_all(any_model, words, PROMPTS, 6, 100) != alone
    assert write_all(any_model, words, PROMPTS, 6, 100, Sampling(1e-6, DRAWS)) == write_all(
        any_model, words, PROMPTS, 6, 100
    )


def test_draws_follow_the_distribution():
    """Numbers spread evenly over [0, 1) draw each token as often as its share under the temperature."""
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 3.0]])
    numbers = [[(n + 0.5) / 1000] for n in range(1000)]
    drawn = Drawn(Sampling(2.0, numbers), 5, torch.device("cpu"))(torch.zeros(1000, 5), scores.expand(1000, 4))
    shares = drawn.argmax(-1).bincount(minlength=4) / 1000
    assert (drawn == 0).sum() == 1000
    assert shares.tolist() == pytest.approx((scores[0] / 2).softmax(-1).tolist(), abs=2e-3)
