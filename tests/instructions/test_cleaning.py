"""Tags in one spelling, in any script; clusters worked out by hand."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from clray.errors import ModelError
from clray.instructions.cleaning import clean, merge

VECTORS = {
    "summary": (1, 0, 0),
    "summarization": (0.99, 0.01, 0),
    "summarise": (0.99, 0, 0.01),
    "code": (0, 1, 0),
    "program": (0, 0.99, 0.01),
    "music": (0, 0, 1),
    "blank": (0, 0, 0),
    "void": (0, 0, 0),
}


def embed(tags):
    return np.array([VECTORS[tag] for tag in tags], np.float32)


@pytest.mark.parametrize(
    ("tag", "language", "cleaned"),
    [
        ("Open-Domain  Questions!", "en", "open domain question"),
        ("Classified_Sentiments", "en", "classify sentiment"),
        ("AI tools", "en", "ai tool"),
        ("Überschriften der Straßen", "de", "überschrift der strasse"),
        ("情感分类、翻译", "zh", "情感分类 翻译"),
        ("تصنيف المشاعر", "xx", "تصنيف المشاعر"),
        ("अंग्रेज़ी-अनुवाद", "xx", "अंग्रेज़ी अनुवाद"),
        ("ＧＰＴ　４", "ja", "gpt 4"),
        ("co\u00adoperation", "xx", "cooperation"),
        ("?! --", "en", ""),
        ("", "en", ""),
    ],
)
def test_a_tag_of_any_script_is_cleaned(tag, language, cleaned):
    assert clean(tag, language) == unicodedata.normalize("NFKC", cleaned)


@settings(deadline=None)
@given(st.text(max_size=20), st.sampled_from(["en", "de", "zh"]))
def test_what_is_left_is_words_with_single_spaces(tag, language):
    cleaned = clean(tag, language)
    assert cleaned == " ".join(cleaned.split())
    assert regex.fullmatch(r"[\p{L}\p{M}\p{N} ]*", cleaned)


def test_every_cluster_becomes_its_most_frequent_tag():
    """{summary 2, summarization 1, summarise 1} -> summary; {code 1, program 1} -> code, the first of the alphabet."""
    tags = [["summary", "program"], ["summarization", "summary"], ["music", "summarise", "code"], []]
    assert merge(tags, embed, 0.1) == [["summary", "code"], ["summary"], ["music", "summary", "code"], []]


def test_frequency_counts_instructions_not_repetitions():
    tags = [["program", "program", "program"], ["code"], ["code"]]
    assert merge(tags, embed, 0.1) == [["code"], ["code"], ["code"]]


def test_the_last_cluster_is_merged_too():
    """InsCL's code stops one label early: here the only cluster is the last."""
    assert merge([["code"], ["program"], ["code"]], embed, 0.1) == [["code"], ["code"], ["code"]]


@pytest.mark.parametrize("radius", [0.1, 1.0, 1.9])
def test_a_tag_without_a_direction_stays_alone(radius):
    merged = merge([["blank", "void"], ["void", "code"]], embed, radius)
    assert merged == [["blank", "void"], ["void", "code"]]


def test_nothing_to_merge_asks_for_no_vectors():
    def refuse(tags):
        raise AssertionError(tags)

    assert merge([], refuse, 0.1) == []
    assert merge([[], [""]], refuse, 0.1) == [[], []]


def test_a_vector_that_is_not_finite_is_named():
    with pytest.raises(ModelError, match="'music' is not finite"):
        merge([["code", "music"]], lambda tags: np.array([[1.0, 0], [np.nan, 1]]), 0.1)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(sorted(VECTORS)), max_size=5), max_size=6))
def test_merging_again_changes_nothing(tags):
    once = merge(tags, embed, 0.1)
    assert merge(once, embed, 0.1) == once
    assert all(len(set(row)) == len(row) for row in once)
