"""Sources become passages on a real Ray: exact pieces of the text, each once, none like another, by content."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from clray.data.manifest import Manifest
from clray.errors import DataError, ModelError, StorageError
from clray.lineage.store import Store
from clray.mining import near, passages
from clray.mining.words import words
from clray.spec.source import Source
from texts import write_lines

pytestmark = pytest.mark.ray


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def all_of(shelf):
    return shelf.passages(shelf.digests(np.arange(len(shelf))))


def lines_of(path):
    return Path(path).read_text().splitlines()


def test_passages_are_exact_pieces_that_cover_their_text(shelf, english):
    """Every word stands in some passage, in texts that lost none for being like another's."""
    texts = {record["title"]: record["text"] for record in map(json.loads, lines_of(english))}
    bare = dict(texts)
    for passage in sorted(all_of(shelf), key=lambda passage: -len(passage.text)):
        text, size = texts[passage.title], len(passage.text)
        assert passage.text in text and 0 < passage.num_tokens <= 64
        for start in [place.start() for place in re.finditer(f"(?={re.escape(passage.text)})", text)]:
            bare[passage.title] = bare[passage.title][:start] + " " * size + bare[passage.title][start + size :]
    left = [title for title, text in bare.items() if words(text)]
    assert len(left) <= shelf.manifest.provenance["near_duplicates"] < 15


def test_numbers_follow_digests(shelf):
    digests = [passage.digest for passage in all_of(shelf)]
    assert digests == sorted(set(digests))
    assert shelf.texts(3, 5) == [f"{p.title}\n{p.text}" for p in shelf.passages(digests[3:5])]


def test_a_set_depends_neither_on_the_layout_of_files_nor_on_the_number_of_parts(
    shelve, english, tmp_path, store, monkeypatch
):
    lines = lines_of(english)
    random.Random(0).shuffle(lines)
    for part in range(3):
        (tmp_path / f"p{part}.jsonl").write_text("\n".join(lines[part::3]) + "\n")
    whole = shelve(store, english)
    parts = shelve(store, f"{tmp_path}/p*.jsonl")
    assert [p.sha256 for p in parts.manifest.parts] == [p.sha256 for p in whole.manifest.parts]
    monkeypatch.setattr(passages, "BYTES_PER_PART", 40_000)
    many = shelve(Store(str(tmp_path / "many")), english)
    assert len(many.manifest.parts) > 2
    assert all_of(many) == all_of(whole) and many.texts(0, len(many)) == whole.texts(0, len(whole))
    middle = len(many) // 2
    assert many.texts(middle - 9, middle + 9) == whole.texts(middle - 9, middle + 9)


def test_of_near_duplicates_the_earlier_by_digest_stays(shelve, tmp_path, store):
    words = [f"word{number}" for number in range(12)]
    rng = random.Random(1)
    base = [" ".join(rng.choice(words) for _ in range(20)) for _ in range(30)]
    like = [f"{text} indeed" for text in base]
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in base + like + base[:5]])
    shelf = shelve(store, source, tokens=128)
    assert shelf.manifest.provenance["duplicates"] == 5
    assert shelf.manifest.provenance["near_duplicates"] == 30 and len(shelf) == 30
    texts = [passage.text for passage in all_of(shelf)]
    sets = [near.shingles(text) for text in texts]
    assert max(near.jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]) <= near.SAME
    earlier = [
        min((one, other), key=lambda text: passages.digest(["", text])) for one, other in zip(base, like, strict=True)
    ]
    assert sorted(texts) == sorted(earlier)


def test_a_made_set_is_taken_from_the_store_and_a_half_made_one_is_finished(shelve, english, store, monkeypatch):
    monkeypatch.setattr(passages.near, "duplicates", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shelve(store, english)
    assert not store.list("knowledge") and len(store.list("pieces")) == 1
    monkeypatch.undo()
    monkeypatch.setattr(passages, "_cut_batch", None)
    first = shelve(store, english)
    assert not store.list("pieces")
    monkeypatch.setattr(passages, "_pieces", None)
    assert shelve(store, english).manifest == first.manifest == Manifest.load(store, first.manifest.folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"}\n{"title": "b"}', r"bad\.jsonl:2: the record has no 'text'; its fields are title"),
        ('{"text": "a", "title": ["b"]}', r"bad\.jsonl:1: 'title' must be text, found list"),
        ('{"text": "--- ..."}', r"bad\.jsonl: no passage is left to search; the texts hold no word"),
    ],
)
def test_bad_knowledge_names_file_and_line(shelve, tmp_path, store, content, expected):
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(DataError, match=expected):
        shelve(store, f"{tmp_path}/bad.jsonl")
    assert not store.list("knowledge")


def test_a_tokenizer_without_offsets_is_refused_before_anything_is_made(shelve, english, store, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(passages.records, "tokenizer_here", lambda *_: Slow())
    with pytest.raises(ModelError, match=r"the tokenizer Slow does not say where its tokens stand"):
        shelve(store, english)
    assert not store.list("pieces")


def test_a_passage_of_other_knowledge_is_named(shelf):
    with pytest.raises(StorageError, match=r"knowledge/\w+ holds no passage beef"):
        shelf.passages(["beef"])


def test_the_address_depends_on_content_and_cutting():
    from clray.data.sources import Opened

    def spec(tokens=64, mark="s"):
        source = Opened((), mark, 10, Source(source="x").model_dump())
        return passages.PassageSpec(
            sources=(source,), tokenizer="a", tokenizer_digest="t", tokens=tokens, overlap=8
        ).digest

    assert len({spec(), spec(tokens=65), spec(mark="r")}) == 3
