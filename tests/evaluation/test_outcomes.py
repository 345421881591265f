"""Aggregation of results into the scores of a task."""

from __future__ import annotations

import math

import pytest

from clray.evaluation.outcomes import aggregate


def test_choice():
    assert aggregate("choice", [{"correct": True}, {"correct": False}, {"correct": True}, {"correct": True}]) == {
        "accuracy": 0.75,
        "n": 4,
    }


def test_generate():
    results = [
        {"exact_match": 1.0, "rouge_l": 1.0, "answered": True},
        {"exact_match": 0.0, "rouge_l": 0.5, "answered": False},
    ]
    assert aggregate("generate", results) == {"exact_match": 0.5, "rouge_l": 0.75, "answered": 0.5, "n": 2}
    judged = [{**result, "judge": float(number)} for number, result in enumerate(results)]
    assert aggregate("generate", judged)["judge"] == 0.5


def test_perplexity_is_of_the_totals():
    """Totals: nll 6 ln 2 over 3 tokens and 12 bytes: perplexity 2^2 = 4, bits per byte 6/12 = 0.5."""
    results = [
        {"nll": 5 * math.log(2), "tokens": 2, "bytes": 10},
        {"nll": math.log(2), "tokens": 1, "bytes": 2},
    ]
    scores = aggregate("perplexity", results)
    assert scores.pop("perplexity") == pytest.approx(4)
    assert scores.pop("bits_per_byte") == pytest.approx(0.5)
    assert scores == {"n": 2, "tokens": 3, "bytes": 12}


@pytest.mark.parametrize(
    ("scorer", "results", "message"),
    [
        ("bleu", [{}], "unknown scorer 'bleu'; one of choice, generate, perplexity"),
        ("choice", [], "no results"),
        ("perplexity", [{"nll": 0.0, "tokens": 0, "bytes": 0}], "no token to score"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(scorer, results, message):
    with pytest.raises(ValueError, match=message):
        aggregate(scorer, results)
