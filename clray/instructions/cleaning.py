"""One spelling of a tag, and one tag for what means the same."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.errors import ModelError


def clean(tag: str, language: str) -> str:
    """The tag's lemmas in lower case with single spaces between; empty where it has no letter, mark or number.

    Works for every script: characters are judged by their Unicode category, where InsCL's code keeps A-Z alone and so
    erases most of the world's tags. A word of a language that simplemma has no dictionary of stays as it is.
    """
    return " ".join(part for word in words(tag) for part in lemma(word, language).split())


def words(text: str) -> list[str]:
    """The words of the text in lower case: runs of letters, marks and numbers. Joiners inside a word are left out."""
    import regex

    plain = regex.sub(r"(?!\u200b)\p{Cf}", "", unicodedata.normalize("NFKC", text))
    return regex.findall(r"[\p{L}\p{M}\p{N}]+", plain.lower())


def lemma(word: str, language: str) -> str:
    """The dictionary form of a word in lower case, casefolded; of two letters and fewer the word itself.

    Folding comes after the dictionary, since it writes German ß as ss, which no dictionary has.
    """
    lemmatize = _lemmatizer(language)
    found = lemmatize(word, language) if lemmatize and len(word) > 2 else word  # simplemma takes AI for "be"
    return " ".join(words(found.casefold()))


def merge(tags: Sequence[Sequence[str]], embed: Callable[[list[str]], NDArray[Any]], radius: float) -> list[list[str]]:
    """The instructions' tags with every tag replaced by the most frequent one of its cluster, none twice.

    `tags` are clean; `embed` gives one row a tag. Clusters are DBSCAN's by cosine distance, at `radius`, with a core
    of one tag (InsCL takes 5, which leaves a small pool unmerged): two tags fall together where a chain of tags, each
    within the radius of the next, joins them. Frequency counts instructions; ties go to the first in the alphabet. A
    tag whose vector is zero has no direction and stays alone. Every cluster is merged, the last one too, which InsCL's
    code leaves out. Raises ModelError where a vector is not finite.
    """
    counts = Counter(tag for row in tags for tag in set(row) if tag)
    pool = sorted(counts)
    best: dict[int, str] = {}
    labels = dict(zip(pool, _clusters(pool, embed, radius), strict=True))
    for tag in sorted(pool, key=lambda tag: (-counts[tag], tag)):
        best.setdefault(labels[tag], tag)
    return [list(dict.fromkeys(best[labels[tag]] for tag in row if tag)) for row in tags]


@cache
def _lemmatizer(language: str) -> Callable[..., str] | None:
    import simplemma

    try:
        simplemma.lemmatize("a", language)
    except ValueError:  # simplemma has no dictionary of that language
        return None
    return simplemma.lemmatize


def _clusters(pool: list[str], embed: Callable[[list[str]], NDArray[Any]], radius: float) -> list[int]:
    """A cluster number for each tag of the pool."""
    if not pool:
        return []
    from sklearn.cluster import DBSCAN

    vectors = np.asarray(embed(pool), dtype=np.float64)
    assert vectors.ndim == 2 and len(vectors) == len(pool), f"{len(pool)} tags, but vectors of shape {vectors.shape}"
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ModelError(
            f"the encoder's vector of the tag '{pool[broken[0]]}' is not finite; use another encoder, or a precision "
            "in which this one does not overflow"
        )
    labels = np.arange(len(pool)) + len(pool)
    directed = np.flatnonzero(vectors.any(axis=1))
    if len(directed):
        scan = DBSCAN(eps=radius, min_samples=1, metric="cosine", algorithm="brute")
        labels[directed] = scan.fit_predict(vectors[directed])
    return [int(label) for label in labels]
