"""The words of a text, as everything here counts them: the search, the likeness of passages, the leak filter."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]|[\w--_--[{_UNSPACED}]]+")


def words(text: str) -> list[str]:
    """Runs of letters, digits and their marks, compatibility forms resolved and case folded.

    Scripts that are written without spaces give each character as a word, as in Lucene's standard tokenizer.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def runs(text: Sequence[str], size: int) -> Iterator[str]:
    """Each run of `size` words, as text; none where there are fewer."""
    return (" ".join(text[start : start + size]) for start in range(len(text) - size + 1))
