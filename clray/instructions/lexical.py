"""Tags without a model: noun chunks and verb-object pairs of English, TF-IDF phrases of any script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clray.data.scripts import UNPARTED
from clray.instructions.cleaning import lemma, words
from clray.instructions.english import phrases_of

MANY = 8
"""Texts from which on a phrase of more than half of them is left out, as a common one."""

SHORTEST = 4
"""Letters of the shortest word that a phrase begins or ends with: shorter ones are mostly articles and such."""

STRETCH = rf"[{UNPARTED}ー]+"
"""Text of a script that puts no space between words: its phrases are runs of two to four characters."""


class Span(NamedTuple):
    """A phrase, the places it takes up in its text, and whether it may well be no word: two characters in a row."""

    phrase: str
    places: range
    guess: bool


def lexical_tags(texts: Sequence[str], most: int, language: str) -> list[list[str]]:
    """At most `most` tags of each text, the weightiest first, none twice; none for a text without letters.

    For English the noun chunks and verb-object pairs. For other languages, and for a text without chunks, words and
    runs of words (of characters where no spaces part words) that do not overlap; a run counts as a phrase where two
    texts have it. A phrase weighs its TF-IDF among those of all texts, so tags depend on the other texts too; the
    same texts in the same order give the same tags. Words are lemmas, as from `clean`.
    """
    chunks = [phrases_of(text) if language == "en" else [] for text in texts]
    spans = [[] if found else list(_spans(text, language)) for text, found in zip(texts, chunks, strict=True)]
    spans = _known(spans)
    runs = _ranked([[span.phrase for span in found] for found in spans])
    return [
        english[:most] or _apart(ranked, found, most)
        for english, ranked, found in zip(_ranked(chunks), runs, spans, strict=True)
    ]


def _ranked(phrases: list[list[str]]) -> list[list[str]]:
    """The distinct phrases of each text by falling TF-IDF weight, of equals the longer and then the earlier first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(phrases):
        return [[] for _ in phrases]
    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True, norm=None)
    weights = vectorizer.fit_transform(phrases).tocsr()
    columns = vectorizer.vocabulary_
    ranked = []
    for number, found in enumerate(phrases):
        row = weights[number]
        weight = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        ranked.append(sorted(dict.fromkeys(found), key=lambda phrase: (-weight[columns[phrase]], -len(phrase))))
    return ranked


def _spans(text: str, language: str) -> Iterator[Span]:
    """Words and pairs of words of the text, runs of two to four characters of a script without spaces."""
    import regex

    place = 0
    for stretch in regex.findall(rf"{STRETCH}|(?:(?!{STRETCH})[\p{{L}}\p{{M}}\p{{N}}\p{{Cf}}\s'’-])+", text):
        spaced = regex.match(STRETCH, stretch) is None
        items = [lemma(word, language) for word in words(stretch)] if spaced else regex.findall(r"\X", stretch)
        for length in (1, 2) if spaced else (2, 3, 4):
            for start in range(len(items) - length + 1):
                run = items[start : start + length]
                if not spaced or min(len(run[0]), len(run[-1])) >= SHORTEST:
                    places = range(place + start, place + start + length)
                    yield Span(" ".join(run) if spaced else "".join(run), places, not spaced)
        place += len(items)


def _known(spans: list[list[Span]]) -> list[list[Span]]:
    """The spans whose phrase two texts have, but no more than half of many; and single words, pairs of characters."""
    counts = Counter(phrase for found in spans for phrase in {span.phrase for span in found})
    limit = len(spans) / 2 if len(spans) >= MANY else len(spans)
    return [
        [
            span._replace(guess=span.guess and counts[span.phrase] == 1)
            for span in found
            if counts[span.phrase] <= limit and (counts[span.phrase] > 1 or len(span.places) == 1 + span.guess)
        ]
        for found in spans
    ]


def _apart(ranked: list[str], spans: list[Span], most: int) -> list[str]:
    """The first phrases that stand somewhere in the text apart from those before them, guesses last."""
    guesses = {span.phrase for span in spans if span.guess}
    taken: set[int] = set()
    tags: list[str] = []
    for phrase in sorted(ranked, key=guesses.__contains__):
        free = [span.places for span in spans if span.phrase == phrase and taken.isdisjoint(span.places)]
        if free and len(tags) < most:
            tags.append(phrase)
            taken.update(place for places in free for place in places)
    return tags
