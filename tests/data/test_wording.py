"""Containment is of whole words, in scripts with and without spaces; `normalised` is tested with exact match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.data.wording import contains


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("It is binary fission, surely.", "Binary  fission", True),
        ("The answer: (Paris).", "paris", True),
        ("答案是北京。", "北京", True),
        ("answer は東京です", "東京", True),
        ("a comparison", "paris", False),
        ("3.5", "3", False),
        ("-3", "3", False),
        ("it is -3.", "-3", True),
        ("C#", "C", False),
        ("50%", "50", False),
        ("fission binary", "binary fission", False),
        ("", "a", False),
        ("a", " ", False),
    ],
)
def test_contains(text, part, found):
    assert contains(text, part) is found


@given(st.lists(st.sampled_from(["red", "sun", "-3", "C#", "北京"]), min_size=1), st.data())
def test_every_run_of_words_is_contained(words, data):
    start = data.draw(st.integers(0, len(words) - 1))
    stop = data.draw(st.integers(start + 1, len(words)))
    assert contains(" ".join(words), " ".join(words[start:stop]).upper())
