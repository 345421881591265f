"""Which of the past is shown again: none, random, balanced, or by instruction (InsCL)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clray.spec.endpoint import Endpoint, LocalModel
from clray.spec.strict import Strict


class NoReplay(Strict):
    """Shows nothing of the past again."""

    kind: Literal["none"] = "none"


class Budget(Strict):
    """How much of the past is shown again: a share of the mixture, rows for each past stage, or rows in all."""

    share: float | None = Field(
        None, gt=0, lt=1, description="replayed share of the whole mixture, in the unit of `of`"
    )
    of: Literal["examples", "tokens"] = Field("examples", description="unit in which `share` is counted")
    rows_per_past_task: int | None = Field(
        None, ge=1, description="examples for each earlier stage: the budget grows with the stream"
    )
    rows: int | None = Field(None, ge=1, description="examples in all, however many stages are past")

    @model_validator(mode="after")
    def _one_budget(self) -> Any:
        if sum(value is not None for value in (self.share, self.rows_per_past_task, self.rows)) != 1:
            raise ValueError(
                "give exactly one of 'share' (say 0.1), 'rows_per_past_task' (say 200) and 'rows' (say 1000)"
            )
        return self


class RandomReplay(Budget):
    """Draws uniformly from all earlier examples together: a long stage is replayed more."""

    kind: Literal["random"] = "random"


class BalancedReplay(Budget):
    """Gives each earlier stage the same quota, as far as its examples reach."""

    kind: Literal["balanced"] = "balanced"


class GenerationEncoder(Strict):
    """Mean-pooled last hidden states of a generation of the stream itself."""

    kind: Literal["generation"] = "generation"
    of: Literal["base", "parent"] = Field(
        "base",
        description="generation 0, so that all replay is drawn before anything is trained; or the generation that "
        "the stage starts from, whose replay is drawn once it is there",
    )


class HuggingFaceEncoder(Strict):
    """Mean-pooled last hidden states of any Hugging Face model."""

    kind: Literal["huggingface"] = "huggingface"
    model: str = Field(description="Hugging Face id or folder")
    revision: str | None = Field(None, description="revision of a Hugging Face id")


class SentenceEncoder(Strict):
    """A sentence-transformers model, with its own pooling (optional extra: clray[sentences])."""

    kind: Literal["sentence-transformers"] = "sentence-transformers"
    model: str = Field(description="Hugging Face id or folder")
    revision: str | None = Field(None, description="revision of a Hugging Face id")


Encoder = Annotated[GenerationEncoder | HuggingFaceEncoder | SentenceEncoder, Field(discriminator="kind")]


class TagLimit(Strict):
    """What all taggers share."""

    most: int = Field(8, ge=1, le=64, description="most tags of one instruction: InsInfo sums over them")


class LexicalTagger(TagLimit):
    """Off line: noun chunks and verb-object pairs (English), and the highest TF-IDF phrases (any script)."""

    kind: Literal["lexical"] = "lexical"
    language: str = Field("en", pattern=r"^[a-z]{2,3}$", description="language of the instructions, for lemmas")


class ModelTagger(TagLimit, LocalModel):
    """A local instruct model asked InsTag's question, its answer constrained to JSON (extra: clray[tagging])."""

    kind: Literal["model"] = "model"


class EndpointTagger(TagLimit, Endpoint):
    """An OpenAI-compatible endpoint asked InsTag's question with a JSON schema (extra: clray[tagging])."""

    kind: Literal["endpoint"] = "endpoint"


Tagger = Annotated[LexicalTagger | ModelTagger | EndpointTagger, Field(discriminator="kind")]


class InsclReplay(Budget):
    """Replays by instruction: InsCL (arXiv 2403.11435).

    How much of each past stage follows the Wasserstein distance between its instructions and the new stage's;
    which examples follows InsInfo. The paper's ablations are `quotas_by: equal` and `rows_by: random`.
    """

    kind: Literal["inscl"] = "inscl"
    quotas_by: Literal["distance", "inverse_distance", "equal"] = Field(
        "distance", description="what the quota of a past stage follows"
    )
    rows_by: Literal["insinfo", "random"] = Field("insinfo", description="what the choice inside a quota follows")
    metric: Literal["cosine", "euclidean", "sqeuclidean"] = Field("cosine", description="ground cost of the transport")
    solver: Literal["auto", "exact", "sinkhorn", "sampled", "sliced"] = Field(
        "auto", description="auto: exact as long as it is quick, then debiased Sinkhorn, then exact between samples"
    )
    centre: bool = Field(True, description="takes the mean of all embeddings off first: models' vectors lie in a cone")
    encoder: Encoder = GenerationEncoder()
    tagger: Tagger = LexicalTagger()
    tag_radius: float = Field(0.1, gt=0, lt=2, description="cosine distance within which DBSCAN takes two tags for one")

    @model_validator(mode="after")
    def _by_examples(self) -> Any:
        if self.of == "tokens":
            raise ValueError("InsCL counts examples: leave out 'of', or give rows_per_past_task or rows")
        return self


Replay = Annotated[NoReplay | RandomReplay | BalancedReplay | InsclReplay, Field(discriminator="kind")]
