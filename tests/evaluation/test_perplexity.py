"""Perplexity of documents: plain cross-entropy is the oracle, and every token is scored once."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clray.errors import ModelError
from clray.evaluation.perplexity import Document, score_documents, windows_of


def some_documents(lengths, seed=0):
    draw = random.Random(seed)
    return [Document((1, *(draw.randrange(3, 96) for _ in range(n))), num_bytes=3 * n) for n in lengths]


def cross_entropy(model, ids):
    """Hugging Face's own loss, a mean over the predicted tokens, as a sum."""
    batch = torch.tensor([ids])
    with torch.no_grad():
        return float(model(batch, labels=batch).loss) * (len(ids) - 1)


def test_one_window_is_plain_cross_entropy(any_model):
    documents = some_documents([5, 40, 1, 63, 23])
    results = score_documents(any_model, documents, context=64, stride=32, batch_tokens=128, pad_id=0)
    expected = [cross_entropy(any_model, d.ids) for d in documents]
    assert [r["nll"] for r in results] == pytest.approx(expected, rel=1e-5)
    assert [(r["tokens"], r["bytes"]) for r in results] == [(n, 3 * n) for n in (5, 40, 1, 63, 23)]


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_long_documents_equal_a_window_by_window_reference(llama, stride):
    """Context 8: for token i, its window starts at the first multiple of the stride that reaches it."""
    [document] = some_documents([37])
    total = 0.0
    for i in range(1, 38):
        start = 0
        while start + 8 < i:
            start += stride
        ids = document.ids[start:i]
        with torch.no_grad():
            logits = llama(torch.tensor([ids])).logits[0, -1]
        total -= float(logits.log_softmax(-1)[document.ids[i]])
    [result] = score_documents(llama, [document], context=8, stride=stride, batch_tokens=20, pad_id=0)
    assert result["nll"] == pytest.approx(total, rel=1e-5) and result["tokens"] == 37


def test_batched_equals_one_by_one_in_input_order(any_model):
    documents = some_documents([9, 100, 3, 31, 31, 64])
    alone = [score_documents(any_model, [d], 32, 16, 1, pad_id=0)[0]["nll"] for d in documents]
    for budget in (1, 100, 10_000):
        together = score_documents(any_model, documents, 32, 16, budget, pad_id=7)
        assert [r["nll"] for r in together] == pytest.approx(alone, rel=1e-5)


def test_a_document_of_its_start_token_alone_has_nothing_to_score(llama):
    assert score_documents(llama, [Document((1,), 0)], 8, 4, 100, pad_id=0) == [{"nll": 0.0, "tokens": 0, "bytes": 0}]


@given(st.integers(0, 200), st.integers(1, 30), st.data())
def test_every_token_is_scored_once_with_its_history(num_ids, context, data):
    stride = data.draw(st.integers(1, context))
    windows = list(windows_of(0, num_ids, context, stride))
    scored = [t for w in windows for t in range(w.first, w.stop)]
    assert scored == list(range(max(0, num_ids - 1)))
    for window in windows:
        assert window.stop - window.start <= context
        assert window.start == 0 or window.first - window.start >= context - stride


def test_settings_that_do_not_fit_are_refused(llama):
    with pytest.raises(ModelError, match="65 tokens, but the model takes 64; give 64 or fewer"):
        score_documents(llama, [], context=65, stride=1, batch_tokens=100, pad_id=0)
    with pytest.raises(ValueError, match=r"stride is 9; it must be in 1\.\.context, and context is 8"):
        score_documents(llama, [], context=8, stride=9, batch_tokens=100, pad_id=0)
