"""Dense retrieval: exact cosine over shards, whatever embeds."""

import sys

import numpy as np
import pytest

from clray.errors import ModelError
from clray.mining import dense
from clray.mining.dense import Embedding


def same(texts):
    return np.ones((len(texts), 3), np.float32)


@pytest.mark.ray
@pytest.mark.parametrize("centre", [True, False])
def test_shards_rank_as_the_whole(shelf, by_hash, centre):
    pytest.importorskip("faiss")
    passages, queries = by_hash(shelf.texts(0, len(shelf))).astype(float), ["one", "two", "three"]
    mean = passages.mean(axis=0) if centre else 0
    cosines = dense._unit(by_hash(queries) - mean) @ dense._unit(passages - mean).T
    for shards in (1, 2, 7):
        index = dense.prepare(shelf, Embedding("by_hash", by_hash), centre, shards)
        for found, expected in zip(index.search(queries, 10), cosines, strict=True):
            assert found.numbers.tolist() == np.argsort(-expected)[:10].tolist()
            assert np.abs(found.scores - expected[found.numbers]).max() < 1e-6
    assert index.search([], 10) == []


@pytest.mark.ray
def test_of_equally_near_ones_the_lowest_digest_comes_first(shelf):
    pytest.importorskip("faiss")
    index = dense.prepare(shelf, Embedding("same", same), False, 3)
    assert index.search(["any"], 5)[0].numbers.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.ray
def test_vectors_are_taken_again_and_texts_are_given_in_blocks(shelf, by_hash, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(dense, "TEXTS", 100)
    sizes = []

    def counted(texts):
        sizes.append(len(texts))
        return by_hash(texts)

    made = dense.prepare(shelf, Embedding("counted", counted), True, 2)
    assert max(sizes) == 100 and sum(sizes) == len(shelf)
    again = dense.prepare(shelf, Embedding("counted", counted), True, 2)
    assert again.manifest == made.manifest and sum(sizes) == len(shelf)
    assert all(part.name.endswith(".npy") for part in made.manifest.parts)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModelError, match=r"pip install 'clray\[dense\]', or take retriever.kind bm25"):
        dense.check_installed()
