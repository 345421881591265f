"""Knowledge points: the few phrases of a mistaken question that its knowledge is looked up by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from clray.mining.words import words

COMMON = 10
Idf = Callable[[Sequence[str]], list[float | None]]
"""Rarity of phrases in the knowledge; None for one that does not occur there."""


def points(candidates: Sequence[Sequence[str]], texts: Sequence[str], most: int, idf: Idf) -> list[list[str]]:
    """For each text at most `most` points: of its candidate phrases and its words those that are rarest in the
    knowledge and occur in it, the rarest first.

    A word is none of its own where it stands in a phrase already taken, so that points do not say the same twice, or
    where more than one text in COMMON holds it: "which" and "following" are rare in many a book, and say nothing.
    """
    spread = Counter(word for text in texts for word in set(words(text)))
    common = {word for word, count in spread.items() if count > max(2, len(texts) / COMMON)}
    pools = [
        list(dict.fromkeys([*found, *(word for word in words(text) if word not in common)]))
        for found, text in zip(candidates, texts, strict=True)
    ]
    every = list(dict.fromkeys(phrase for pool in pools for phrase in pool))
    rarity = dict(zip(every, idf(every), strict=True))
    return [_rarest(pool, rarity, most) for pool in pools]


def occurring(named: Sequence[Sequence[str]], most: int, idf: Idf) -> list[list[str]]:
    """For each text the first `most` of the phrases named for it, each once, that have a word in the knowledge."""
    every = list(dict.fromkeys(phrase for phrases in named for phrase in phrases))
    known = {phrase for phrase, value in zip(every, idf(every), strict=True) if value is not None}
    return [[phrase for phrase in dict.fromkeys(phrases) if phrase in known][:most] for phrases in named]


def _rarest(pool: Sequence[str], rarity: dict[str, float | None], most: int) -> list[str]:
    known = [(value, phrase) for phrase in pool if (value := rarity[phrase]) is not None]
    taken: list[str] = []
    for _, phrase in sorted(known, key=lambda item: (-item[0], -len(item[1]), item[1])):
        said = {word for other in taken for word in words(other)}
        if set(words(phrase)) - said and len(taken) < most:
            taken.append(phrase)
    return taken


def query(question: str, answers: Sequence[str], found: Sequence[str]) -> str:
    """What is searched for: the points, or question and answer where there is none."""
    return " ".join(found) if found else " ".join([question, *answers])


def holds_one(text: str, found: Sequence[str]) -> bool:
    """Whether the text holds all words of one of the points; any text does where there is none."""
    here = set(words(text))
    return not found or any(set(words(point)) <= here for point in found)
