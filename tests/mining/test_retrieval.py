"""The door to the knowledge: prepared once, searched by BM25 or vectors, passages by digest."""

import numpy as np
import pytest

from clray.errors import ModelError
from clray.lineage.store import Store
from clray.mining import dense, retrieval
from clray.mining.dense import Embedding
from clray.spec import knowledge as spec

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("retrieval")))


@pytest.fixture
def prepare(tiny_model, english, store, ray_cluster):
    def make(embedding=None, **choices):
        asked = spec.Knowledge(sources=english, tokens=64, overlap=8, **choices)
        return retrieval.prepare(asked, str(tiny_model), "t", store, embedding)

    return make


def test_hits_are_named_by_digest_and_read_back(prepare):
    knowledge = prepare()
    hits, none = retrieval.search(knowledge, ["rounding of floating point numbers", "zzzz"], 4)
    assert [hit.rank for hit in hits] == [0, 1, 2, 3] and none == []
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    passages = knowledge.passages([hit.passage for hit in hits])
    assert [passage.digest for passage in passages] == [hit.passage for hit in hits]
    assert "float" in passages[0].text.casefold()
    rare, common = knowledge.idf(["floating", "the"])
    assert rare > common
    assert retrieval.search(knowledge, [], 4) == []


def test_the_number_of_shards_changes_no_hit(prepare):
    queries = ["rounding of floating point numbers", "open a file"]
    assert retrieval.search(prepare(shards=4), queries, 9) == retrieval.search(prepare(shards=1), queries, 9)


def test_dense_retrieval_stands_behind_the_same_door(prepare, by_hash):
    pytest.importorskip("faiss")
    knowledge = prepare(Embedding("by_hash", by_hash), retriever=spec.DenseRetriever())
    text = knowledge.shelf.texts(5, 6)[0]
    hit = retrieval.search(knowledge, [text], 2)[0][0]
    assert hit.score == pytest.approx(1.0) and hit.passage == knowledge.shelf.digests(np.array([5]))[0]
    assert knowledge.idf(["zzzz"]) == [None]


def test_a_missing_package_is_said_before_anything_is_made(tiny_model, english, tmp_path, monkeypatch):
    def missing():
        raise ModelError("no faiss")

    monkeypatch.setattr(dense, "check_installed", missing)
    store = Store(str(tmp_path))
    asked = spec.Knowledge(sources=english, retriever=spec.DenseRetriever())
    with pytest.raises(ModelError, match="no faiss"):
        retrieval.prepare(asked, str(tiny_model), "t", store)
    assert not store.list("pieces")
