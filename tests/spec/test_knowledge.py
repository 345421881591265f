"""What a person writes of the knowledge."""

import pytest
from pydantic import ValidationError

from clray.spec.knowledge import Knowledge


def test_a_path_is_enough():
    found = Knowledge(sources="wiki/*.jsonl")
    assert [source.source for source in found.sources] == ["wiki/*.jsonl"]
    assert (found.tokens, found.overlap, found.retriever.kind, found.shards) == (256, 32, "bm25", None)


def test_a_retriever_is_chosen_by_kind():
    found = Knowledge.model_validate(
        {"sources": "a", "retriever": {"kind": "dense", "encoder": {"kind": "generation"}}}
    )
    assert found.retriever.kind == "dense" and found.retriever.centre
    with pytest.raises(ValidationError, match="Extra inputs"):
        Knowledge.model_validate({"sources": "a", "retriever": {"kind": "bm25", "encoder": {"kind": "generation"}}})


def test_passages_must_move_on():
    with pytest.raises(ValidationError, match=r"overlap \(20\) may be half of tokens \(32\) at most; lower overlap"):
        Knowledge(sources="a", tokens=32, overlap=20)
    with pytest.raises(ValidationError):
        Knowledge(sources=())
