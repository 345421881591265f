"""Scores of written answers, for text in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import regex

from clray.data.scripts import BY_CHARACTER
from clray.data.wording import normalised

if TYPE_CHECKING:  # it loads NLTK and SciPy's statistics
    from rouge_score.rouge_scorer import RougeScorer

TOKEN = regex.compile(rf"[{BY_CHARACTER}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{BY_CHARACTER}]]+", regex.VERSION1)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 where the prediction equals a reference, both `normalised`, else 0.0.

    Raises ValueError without references.
    """
    _require(references)
    return float(normalised(prediction) in {normalised(reference) for reference in references})


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 in [0, 1] against the best of the references. Raises ValueError without references.

    rouge-score's own value for English. Its default tokenizer knows a-z and 0-9 only and gives 0 for
    identical Chinese; `AnyScript` stands in for it.
    """
    _require(references)
    return float(_scorer().score_multi(list(references), prediction)["rougeL"].fmeasure)


class AnyScript:
    """A tokenizer for rouge-score: words, or single characters in scripts written without spaces."""

    def tokenize(self, text: str) -> list[str]:
        """The caseless tokens of the text; combining marks stay with their letter."""
        return list(TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=AnyScript())


def _require(references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        raise ValueError(f"references must be a list of one text or more, got {references!r}")
