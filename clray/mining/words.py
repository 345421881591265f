"""The words of a text, as everything here counts them: the search, the likeness of passages, the leak filter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import regex

from clray.data.scripts import UNSPACED

_WORD = regex.compile(rf"(?V1)[{UNSPACED}]|[\w--\p{{Pc}}--[{UNSPACED}]]+")
_UNSEEN = re.compile("[\u00ad\u200c\u200d\u2060\ufeff]")
"""Soft hyphens and joiners, which stand inside words."""
_MARKED = re.compile(r"[\u0300-\u1fff\u20d0-\u20ff\u24eb-\u24ff\u2776-\u2793\u2c00-\U0010ffff]")
_PLAIN_WORD = re.compile(r"[^\W_]+")
"""Finds the same words in a text without marked characters, in a third of the time."""


def words(text: str) -> list[str]:
    """Runs of letters, digits and their marks, compatibility forms resolved and case folded.

    Scripts that are written without spaces give each character as a word, as in Lucene's standard tokenizer.
    """
    folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", text).casefold())
    return (_WORD if _MARKED.search(folded) else _PLAIN_WORD).findall(folded)


def runs(text: Sequence[str], size: int) -> Iterator[str]:
    """Each run of `size` words, as text; none where there are fewer."""
    return (" ".join(text[start : start + size]) for start in range(len(text) - size + 1))
