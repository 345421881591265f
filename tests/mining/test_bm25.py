"""BM25 in shards: the same ranking and scores as of bm25s alone over everything."""

import bm25s
import numpy as np
import pytest

from clray.lineage.store import Store
from clray.mining import bm25, terms
from clray.spec.knowledge import Bm25Retriever

QUERIES = [
    "how does a generator yield values",
    "the the of a",
    "exceptions raised while importing a module",
    "floating point rounding errors",
    "list",
    "zzzz nothing at all zzzz",
    "",
]


def test_scores_are_those_of_the_formula(monkeypatch):
    """Two passages of 3 and 1 terms, mean 2: idf ln(1 + 0.5/2.5) for a in both, ln 2 for b in one."""
    found = terms.post(["a b b", "a"], "none")
    idf = terms.idf(np.diff(found.starts), 2)
    expected = [
        np.log(1.2) * 1 / (1 + 1.5 * 1.375),
        np.log(1.2) * 1 / (1 + 1.5 * 0.625),
        np.log(2) * 2 / (2 + 1.5 * 1.375),
    ]
    assert bm25.scores(found, idf, 2.0, 1.5, 0.75).tolist() == pytest.approx(expected)
    monkeypatch.setattr(bm25, "AT_ONCE", 1)
    assert bm25.scores(found, idf, 2.0, 1.5, 0.75).tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def alone(shelf):
    """Every score of every query, by bm25s over the whole set in one."""
    tokens = [terms.terms_of(text, "english") for text in shelf.texts(0, len(shelf))]
    index = bm25s.BM25(method="lucene", dtype="float64")
    index.index(tokens, show_progress=False)
    return [index.get_scores_from_ids(index.get_tokens_ids(terms.terms_of(query, "english"))) for query in QUERIES]


@pytest.mark.ray
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_shards_rank_as_one_index_of_everything(shelf, alone, shards, k):
    index, _ = bm25.prepare(shelf, Bm25Retriever(), "english", shards)
    assert len(index.manifest.provenance["shards"]) == shards
    for found, scores in zip(index.search(QUERIES, k), alone, strict=True):
        order = np.lexsort((np.arange(len(scores)), -scores.astype(np.float32)))
        expected = order[scores[order] > 0][:k]
        assert np.abs(found.scores - scores[found.numbers]).max(initial=0) < 1e-6
        assert len(found.numbers) == len(expected)
        assert np.abs(scores[found.numbers] - scores[expected]).max(initial=0) < 1e-6
        clear = np.diff(scores[expected], prepend=np.inf, append=0) < -1e-6
        settled = clear[:-1] & clear[1:]
        assert found.numbers[settled].tolist() == expected[settled].tolist()


@pytest.mark.ray
def test_shards_change_no_bit(shelf):
    one, *others = (
        bm25.prepare(shelf, Bm25Retriever(), "english", shards)[0].search(QUERIES, 50) for shards in (1, 2, 3, 7)
    )
    for other in others:
        for found, expected in zip(other, one, strict=True):
            assert found.numbers.tolist() == expected.numbers.tolist()
            assert found.scores.tolist() == expected.scores.tolist()


@pytest.mark.ray
def test_queries_in_any_number_of_tasks_find_the_same(shelf, monkeypatch):
    index, _ = bm25.prepare(shelf, Bm25Retriever(), "english", 2)
    whole = index.search(QUERIES, 5)
    monkeypatch.setattr("clray.mining.ranking.QUERIES", 2)
    for one, other in zip(index.search(QUERIES, 5), whole, strict=True):
        assert one.numbers.tolist() == other.numbers.tolist()
    assert index.search([], 5) == []


@pytest.mark.ray
def test_equal_scores_are_ranked_by_digest(shelve, tmp_path):
    """Twelve passages of different titles that say the same to the query."""
    from texts import write_lines

    rows = [{"text": f"quartz w{n} x{n} y{n} z{n}"} for n in range(12)]
    shelf = shelve(Store(str(tmp_path / "store")), write_lines(tmp_path / "a.jsonl", rows))
    for shards in (1, 5):
        found = bm25.prepare(shelf, Bm25Retriever(), "none", shards)[0].search(["quartz"], 7)[0]
        assert found.numbers.tolist() == list(range(7)) and len(set(found.scores.tolist())) == 1


@pytest.mark.ray
def test_an_index_is_mapped_holds_no_pickle_and_is_taken_again(shelf, monkeypatch):
    made = bm25.prepare(shelf, Bm25Retriever(k1=1.2), "english", 2)[0]
    names = {part.name.rpartition("/")[2] for part in made.manifest.parts}
    assert {name.rpartition(".")[2] for name in names} == {"npy", "json"}
    folder = shelf.store.fetch(made.manifest.folder) / "shard-00001"
    for path in folder.glob("*.npy"):
        np.load(path, allow_pickle=False)
    bm25._load.cache_clear()
    assert isinstance(bm25._load(str(folder)).scores["data"], np.memmap)
    monkeypatch.setattr(terms, "count", None)
    again = bm25.prepare(shelf, Bm25Retriever(k1=1.2), "english", 2)[0]
    assert again.manifest == made.manifest
