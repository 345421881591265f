"""Words of a text: folded, and the same by the quick way as by the thorough one."""

import unicodedata

from clray.mining import words


def test_words_are_folded_split_and_kept_whole():
    assert words.words("Don’t STOP_me: naïve ﬁsh, x² = 3.14") == [*"don t stop me naïve fish x2 3 14".split()]
    assert words.words("हिन्दी शब्द") == ["हिन्दी", "शब्द"]
    assert words.words("abc中文def ひら") == ["abc", "中", "文", "def", "ひ", "ら"]
    assert words.words("cafe\u0301") == ["café"] == words.words("CAFÉ")
    assert words.words("photo\u00adsyn\u200dthesis\ufeff") == ["photosynthesis"]
    assert words.words(" … -- ") == []


def test_the_quick_way_finds_what_the_thorough_one_does():
    """For every character that it is used on and that this Python knows."""
    checked = 0
    for number in range(0x110000):
        text = words._UNSEEN.sub("", unicodedata.normalize("NFKC", f"a{chr(number)}b").casefold())
        if unicodedata.category(chr(number)) != "Cn" and not words._MARKED.search(text):
            assert words._PLAIN_WORD.findall(text) == words._WORD.findall(text), hex(number)
            checked += 1
    assert checked > 3000


def test_runs_are_of_so_many_words():
    assert list(words.runs(["a", "b", "c"], 2)) == ["a b", "b c"]
    assert list(words.runs(["a"], 2)) == []
