"""Terms of texts, and how often they occur, in however many shards they are counted."""

import math

import numpy as np
import pyarrow as pa
import pytest

from clray.mining import terms
from texts import texts


def test_stemming_is_a_choice():
    assert terms.terms_of("The cells divide", "english") == ["the", "cell", "divid"]
    assert terms.terms_of("The cells divide", "none") == ["the", "cells", "divide"]


def test_postings_say_where_each_term_stands_and_how_often():
    found = terms.post(["b a b", "", "c b"], "none")
    assert found.vocabulary.to_pylist() == ["a", "b", "c"]
    assert found.starts.tolist() == [0, 1, 3, 4]
    assert found.passages.tolist() == [0, 0, 2, 2] and found.counts.tolist() == [1, 2, 1, 1]
    assert found.lengths.tolist() == [3, 0, 2]


def test_postings_do_not_depend_on_how_many_passages_are_counted_at_once(monkeypatch):
    given = [*texts(20, seed=1), "", "a word of its own: zebu", *texts(20, seed=2)]
    whole = terms.post(given, "english")
    monkeypatch.setattr(terms, "BLOCK", 3)
    for one, other in zip(whole, terms.post(given, "english"), strict=True):
        assert one.equals(other) if isinstance(one, pa.Array) else one.tolist() == other.tolist()
    assert whole.lengths.sum() == whole.counts.sum() and terms.post([], "english").starts.tolist() == [0]


def test_idf_is_lucenes():
    """ln(1 + (10 - 2 + 0.5) / 2.5)."""
    assert terms.idf(np.array([2]), 10).tolist() == pytest.approx([math.log(4.4)])


@pytest.mark.ray
def test_counts_do_not_depend_on_shards_and_are_kept(shelf, monkeypatch):
    first, postings = terms.count(shelf, "english", 3)
    assert len(postings) == 3
    kept = (shelf.store.fetch(first.manifest.folder) / "terms.arrow").read_bytes()
    again = terms.count(shelf, "english", 1)[0]
    assert again.manifest == first.manifest
    assert (shelf.store.fetch(first.manifest.folder) / "terms.arrow").read_bytes() == kept
    monkeypatch.setattr(terms, "count", None)
    assert terms.prepare(shelf, "english", 2) == first
    passages = [set(terms.terms_of(text, "english")) for text in shelf.texts(0, len(shelf))]
    asked = ["python", "the", "nothinglikethis"]
    assert first.counts(pa.array(asked)).tolist() == [sum(term in held for held in passages) for term in asked]
    assert first.num_passages == len(shelf)


@pytest.mark.ray
def test_the_rarity_of_a_phrase_is_that_of_its_rarest_word(shelf):
    counted = terms.prepare(shelf, "english", 1)
    common, rare, both, none, part, empty = counted.idf(["the", "iterators", "the iterator", "zzzz", "zzzz the", "—"])
    assert rare == both > common == part > 0 and none is None and empty is None
    assert counted.idf([]) == []
