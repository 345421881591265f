"""Batches of like lengths and the pieces that the scorers share."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from clray.evaluation.batching import batches_by_length, max_positions, padded, scoring, target_log_probs


@given(st.lists(st.integers(0, 40)), st.integers(1, 100))
def test_every_item_is_in_one_batch_within_the_budget(lengths, budget):
    batches = list(batches_by_length(lengths, budget))
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_padding_on_either_side():
    assert padded([[1], [2, 3]], 9, torch.device("cpu")).tolist() == [[1, 9], [2, 3]]
    assert padded([[1], [2, 3]], 9, torch.device("cpu"), left=True).tolist() == [[9, 1], [2, 3]]


def test_log_probs_of_targets_share_rows():
    logits = torch.randn(1500, 7, generator=torch.Generator().manual_seed(0))
    row, target = torch.tensor([0, 0, 1499]), torch.tensor([2, 3, 6])
    expected = logits.log_softmax(-1)[row, target]
    torch.testing.assert_close(target_log_probs(logits, row, target), expected)
    assert target_log_probs(logits.bfloat16(), row, target).dtype == torch.float32


def test_the_models_mode_is_restored(llama):
    llama.train()
    with scoring(llama):
        assert not llama.training and torch.is_inference_mode_enabled()
    assert llama.training
    llama.eval()


def test_the_models_positions(any_model):
    assert max_positions(any_model) == 64
