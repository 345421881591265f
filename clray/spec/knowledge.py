"""The text that a model's gaps are filled from, and how it is searched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clray.spec.replay import Encoder, GenerationEncoder
from clray.spec.source import Sources
from clray.spec.strict import Strict


class Bm25Retriever(Strict):
    """Finds passages by the words they share with the query: BM25 with Lucene's idf."""

    kind: Literal["bm25"] = "bm25"
    k1: float = Field(1.5, gt=0, le=10, description="how late a word's count in a passage saturates")
    b: float = Field(0.75, ge=0, le=1, description="how much a long passage is marked down; 0: not at all")


class DenseRetriever(Strict):
    """Finds passages by the cosine of embeddings, compared with every passage (optional extra: clray[dense])."""

    kind: Literal["dense"] = "dense"
    encoder: Encoder = GenerationEncoder()
    centre: bool = Field(True, description="takes the mean of all passages off first: models' vectors lie in a cone")


Retriever = Annotated[Bm25Retriever | DenseRetriever, Field(discriminator="kind")]


class Knowledge(Strict):
    """Sources of plain text (field `text`, and `title` where there is one), cut into passages that can be searched."""

    sources: Sources = Field(min_length=1)
    tokens: int = Field(256, ge=16, description="most tokens of a passage, by the model's tokenizer")
    overlap: int = Field(32, ge=0, description="tokens that a passage has in common with the one before it")
    top: int = Field(3, ge=1, description="passages taken for each query")
    stemmer: Literal["english", "none"] = Field(
        "english", description="english: 'cells' finds 'cell'; none for other languages"
    )
    retriever: Retriever = Bm25Retriever()
    shards: int | None = Field(
        None, ge=1, description="parts of the index, built and searched side by side; default: by the passages"
    )

    @model_validator(mode="after")
    def _moves_on(self) -> Knowledge:
        if self.overlap * 2 > self.tokens:
            raise ValueError(
                f"overlap ({self.overlap}) may be half of tokens ({self.tokens}) at most; lower overlap, say to "
                f"{self.tokens // 8}"
            )
        return self
