"""Whether two texts say the same words, in any script."""

from __future__ import annotations

import unicodedata

import regex

from clray.data.scripts import BY_CHARACTER

ALONE = regex.compile(rf"[{BY_CHARACTER}]\p{{M}}*", regex.VERSION1)
# Punctuation at an end is dropped, except where it is part of the answer: C#, 50%, -3, .5.
ENDS = regex.compile(r"^(?:(?![-.]\p{N})[\p{P}\s])+|[\p{P}\s--[#%‰@&]]+$", regex.VERSION1)


def normalised(text: str) -> str:
    """The text in Unicode form NFKC, caseless, runs of white space as one space, no punctuation at the ends.

    English articles stay, since the rule has to hold in every language. A text of punctuation alone is kept.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = " ".join(plain.split())
    return ENDS.sub("", plain) or plain


def contains(text: str, part: str) -> bool:
    """Whether the words of `part`, one after the other, stand in the text, both `normalised`.

    Whole words alone count: 3 is not in 3.5, nor C in C#. In scripts without spaces each character is a word.
    """
    words, wanted = _words(text), _words(part)
    size = len(wanted)
    return bool(wanted) and any(words[at : at + size] == wanted for at in range(len(words) - size + 1))


def _words(text: str) -> list[str]:
    return [ENDS.sub("", word) or word for word in ALONE.sub(r" \g<0> ", normalised(text)).split()]
