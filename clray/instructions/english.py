"""What an English instruction speaks of: its noun chunks, and what is to be done with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clray.instructions.cleaning import lemma, words

NOUNS, ADJECTIVES = ("NN", "NNS", "NNP", "NNPS"), ("JJ", "JJR", "JJS")
ACTIVE_VERBS = ("VB", "VBP", "VBZ", "VBG")
INFLECTED = ("NNS", "NNPS", "VBP", "VBZ", "VBG")
BETWEEN = ("DT", "PDT", "PRP$", "CD", "VBN")
"""Parts of speech of the Penn Treebank; the last may stand between a verb and its object."""

WORD = r"\p{L}[\p{L}\p{M}\p{N}]+(-[\p{L}\p{M}\p{N}]+)*"
"""Two letters at least: names such as nth_max and A, and words joined by a slash, end a chunk."""

LONGEST = 3
"""Words of a chunk, counted from its noun: what stands farther before narrows it more than a coarse tag should."""

BOILERPLATE = frozenset(
    "task job goal objective focus purpose instruction input output example instance sample thing way note order fact "
    "kind sort type case lot part item one rest response result need use template form format term reason time line "
    "following given provided other different various certain same single several many few much more most multiple "
    "correct right appropriate possible specific particular preferred final such able likely least short new whole "
    "entire only main own good well first second third something anything everything someone anyone end respect please "
    "true false yes no none etc re specified mentioned expected stated corresponding".split()
)
"""Words of almost any instruction: they are no tag, and are cut off both ends of one."""

LIGHT_VERBS = frozenset(
    "be is am have do give need let try get put take keep see mean note want contain include consist follow use refer "
    "present ask require expect assume help ensure make seem base consider set following including "
    "containing regarding concerning according depending using".split()
)
"""Verbs that do not say what is to be done."""


def phrases_of(text: str) -> list[str]:
    """Noun chunks and verb-object pairs of the text in lemmas, in their order, as often as they stand there.

    From the parts of speech that TextBlob's tagger gives (Brill's, of the pattern library): its lexicon comes with
    the package, and nothing is downloaded.
    """
    if not text.strip():
        return []
    from textblob.en import parse

    return [
        phrase
        for sentence in parse(text).split()
        for phrase in _of_sentence([(token[0], token[1]) for token in sentence])
    ]


def _of_sentence(sentence: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The phrases of a sentence of words and their parts of speech."""
    verb = ""
    run: list[tuple[str, str]] = []
    for word, part in [*_imperatives(sentence), (".", ".")]:
        if part in NOUNS + ADJECTIVES and _plain(word):
            run.append((word, part))
            continue
        if chunk := _chunk(run):
            yield from ([f"{verb} {chunk.split()[-1]}"] if verb else [])
            yield chunk
        verb = "" if run else verb
        run = []
        if part in ACTIVE_VERBS and _plain(word):
            base = _base(word, part)
            verb = base if base not in LIGHT_VERBS else verb if part == "VBG" else ""
        elif part not in BETWEEN:
            verb = ""


def _imperatives(sentence: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The sentence, with "Return the", "to judge the" and "must name the" for verbs, where they are tagged as nouns."""
    parts = ["TO", *(part for _, part in sentence), "."]
    for before, (word, part), after in zip(parts, sentence, parts[2:], strict=False):
        yield word, "VB" if before in ("TO", "MD") and part in ("NN", "NNP", "JJ") and after in BETWEEN else part


def _chunk(run: list[tuple[str, str]]) -> str:
    """The noun chunk that adjectives and nouns in a row make; empty where there is none worth a tag."""
    while run and run[-1][1] in ADJECTIVES:
        run = run[:-1]
    chunk = " ".join(_base(word, part) for word, part in run).split()
    while chunk and chunk[-1] in BOILERPLATE:
        chunk.pop()
    chunk = chunk[-LONGEST:]
    while chunk and chunk[0] in BOILERPLATE:
        chunk.pop(0)
    return " ".join(chunk)


def _base(word: str, part: str) -> str:
    """The lemma of an inflected word; the dictionary, which knows no parts of speech, takes the noun span for spin."""
    parts = words(word)
    return " ".join([*parts[:-1], lemma(parts[-1], "en") if part in INFLECTED else parts[-1]])


def _plain(word: str) -> bool:
    import regex

    return regex.fullmatch(WORD, word) is not None
