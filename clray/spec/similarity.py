"""How the likeness of domains is measured."""

from __future__ import annotations

from pydantic import Field

from clray.spec.replay import Encoder, GenerationEncoder
from clray.spec.source import Sources
from clray.spec.strict import Strict


class Similarity(Strict):
    """Likeness of the stages' texts: cosine of their mean document embeddings (Yildiz et al., arXiv 2402.17400)."""

    start: Sources = Field(
        (), description="text that `order: similar` sets out from, say of the base model; default: the first stage's"
    )
    documents: int = Field(10_000, ge=1, description="documents of each stage, drawn by digest")
    encoder: Encoder = GenerationEncoder()
    centre: bool = Field(True, description="takes the mean of all stages off first: models' vectors lie in a cone")
