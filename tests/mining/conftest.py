"""Knowledge for the tests: real English out of Python's own documentation, cut by the tests' tiny tokenizer."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from clray.data.records import open_sources
from clray.lineage.store import Store
from clray.mining import passages
from clray.mining.shelf import Shelf
from clray.spec.source import Source
from texts import write_lines


@pytest.fixture(scope="session")
def shelve(tiny_model, ray_cluster):
    """A function from a store and sources to the passages of them."""

    def make(store: Store, *sources: str, tokens: int = 64, overlap: int = 8) -> Shelf:
        spec = passages.PassageSpec(
            sources=open_sources([Source(source=source) for source in sources], store),
            tokenizer=str(tiny_model),
            tokenizer_digest="t",
            tokens=tokens,
            overlap=overlap,
        )
        return Shelf(store, passages.prepare(spec, store))

    return make


@pytest.fixture(scope="session")
def english(tmp_path_factory):
    """A file of 150 real texts."""
    from clray.data import builtin

    folder = tmp_path_factory.mktemp("english")
    texts = [record["text"][:1500] for record, _ in zip(builtin.records("docs", "train"), range(150), strict=False)]
    return write_lines(folder / "docs.jsonl", [{"text": text, "title": f"page {n}"} for n, text in enumerate(texts)])


@pytest.fixture(scope="session")
def shelf(shelve, english, tmp_path_factory):
    """The passages of those texts."""
    return shelve(Store(str(tmp_path_factory.mktemp("shelf"))), english)


@pytest.fixture
def by_hash():
    """A function from n texts to vectors (n, 24) that say nothing but are the same for the same text."""

    def embed(texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=24) + 1 for seed in seeds]).astype(np.float32)

    return embed
