"""From the results of single examples to the scores of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

Results = Sequence[dict[str, Any]]


def aggregate(scorer: str, results: Results) -> dict[str, float]:
    """The scores of a task from the results of all its examples, those of its shards one after the other.

    choice: accuracy, n. preference: accuracy, margin (mean of log p(chosen) - log p(rejected), in nats, of each token
    where the task normalises), n. suite: its metrics that are means or ratios of sums, n. generate: exact_match,
    rouge_l, answered, judge where there was one (shares in [0, 1]), n, and of what was checked format, refusal_rate and
    compliance_rate. perplexity: perplexity (of a token), bits_per_byte, n (documents), tokens, bytes; both are ratios
    of totals, so long documents weigh more. The order of the results does not matter beyond rounding. Raises ValueError
    for an unknown scorer or no results.
    """
    if scorer not in AGGREGATES:
        raise ValueError(f"unknown scorer '{scorer}'; one of {', '.join(AGGREGATES)}")
    if not results:
        raise ValueError(f"no results of scorer '{scorer}' to aggregate; the task needs an example")
    return {**AGGREGATES[scorer](results), "n": len(results)}


def _choice(results: Results) -> dict[str, float]:
    return {"accuracy": _mean(results, "correct")}


def _preference(results: Results) -> dict[str, float]:
    margins = [r["scores"][r["gold"]] - r["scores"][1 - r["gold"]] for r in results]
    return {"accuracy": _mean(results, "correct"), "margin": fmean(margins)}


def _generate(results: Results) -> dict[str, float]:
    judge = ("judge",) if "judge" in results[0] else ()
    found = {name: _mean(results, name) for name in ("exact_match", "rouge_l", "answered", *judge)}
    if "format" in results[0]:
        found["format"] = _mean(results, "format")
    if "refused" in results[0]:
        found["refusal_rate"] = _mean(results, "refused")
        found["compliance_rate"] = 1.0 - found["refusal_rate"]
    return found


def _perplexity(results: Results) -> dict[str, float]:
    nll, tokens, size = (math.fsum(r[name] for r in results) for name in ("nll", "tokens", "bytes"))
    if not tokens or not size:
        raise ValueError("the documents hold no token to score; give documents with text")
    return {
        "perplexity": math.exp(nll / tokens),
        "bits_per_byte": nll / math.log(2) / size,
        "tokens": int(tokens),
        "bytes": int(size),
    }


def _suite(results: Results) -> dict[str, float]:
    return {name: _ratio(name, [r["values"][name] for r in results]) for name in results[0]["values"]}


def _ratio(name: str, pairs: Sequence[Sequence[float]]) -> float:
    value = math.fsum(top for top, _ in pairs) / math.fsum(low for _, low in pairs)
    return math.exp(value) if name in EXPONENTIAL else value


def _mean(results: Results, name: str) -> float:
    return fmean(float(result[name]) for result in results)


EXPONENTIAL = frozenset({"perplexity", "word_perplexity", "byte_perplexity"})
"""Metrics that are exp of a ratio of sums."""
AGGREGATES: dict[str, Callable[[Results], dict[str, float]]] = {
    "choice": _choice,
    "generate": _generate,
    "perplexity": _perplexity,
    "preference": _preference,
    "suite": _suite,
}
