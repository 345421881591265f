"""What an `evolve` stage does: finds what a generation gets wrong, collects what it lacks, learns it (CEM).

CEM (arXiv 2404.08707) is known to us by its abstract and by notes on it alone. The loop, the kinds of mistakes, the
kinds of instructions and their names are the paper's; formulas, thresholds and shares are clray's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clray.spec.endpoint import ADDRESSES, Endpoint, Judge, LocalModel
from clray.spec.knowledge import Knowledge
from clray.spec.source import Sources
from clray.spec.strict import Strict


class Exam(Strict):
    """How a generation is asked each question: all answers are scored, and it answers freely several times."""

    samples: int = Field(5, ge=1, description="answers sampled for each question, options shuffled each time")
    temperature: float = Field(0.7, gt=0, description="of the sampled answers")
    max_new_tokens: int = Field(16, ge=1, description="tokens of a written answer")
    distractors: int = Field(
        3, ge=1, description="answers of other questions to choose from where a question has no options of its own"
    )
    rouge: float | None = Field(
        None, gt=0, le=1, description="least ROUGE-L of a right written answer; default: it holds the right one"
    )
    judge: Judge | None = Field(
        None, description="a model that says whether a written answer to a question without options is right"
    )


class Mining(Strict):
    """Which questions are mistakes. A question that is neither is known."""

    entropy: float = Field(
        0.5, ge=0, le=1, description="least entropy of the sampled answers (of its maximum) that counts as ambiguous"
    )
    margin: float = Field(
        0.1, ge=0, le=1, description="least lead of the likeliest option over the next; below it is ambiguous"
    )
    limit: int | None = Field(
        None, ge=1, description="at most so many mistakes a round, the least likely answers first"
    )


class PointModel(LocalModel):
    """A local instruct model names the phrases, its answer constrained to JSON (extra: clray[tagging])."""

    kind: Literal["model"] = "model"


class PointEndpoint(Endpoint):
    """A model behind an OpenAI-compatible endpoint names the phrases (extra: clray[tagging])."""

    kind: Literal["endpoint"] = "endpoint"


class Points(Strict):
    """What is looked up for a mistake: phrases of question, options and answer, the rarest in the knowledge first."""

    kind: Literal["phrases", "question"] = Field(
        "phrases", description="phrases: noun phrases and rare terms; question: its whole text with the answer"
    )
    most: int = Field(5, ge=1, description="phrases of one question")
    language: str = Field("en", description="language of the questions, ISO 639-1")
    by: Annotated[PointModel | PointEndpoint, Field(discriminator="kind")] | None = Field(
        None, description="a model that names the phrases; default: a library finds them, the rarest first"
    )

    @model_validator(mode="after")
    def _names_phrases(self) -> Points:
        if self.by and self.kind == "question":
            raise ValueError("'by' names phrases; leave it out, or take kind: phrases")
        return self


class Shares(Strict):
    """How much of each kind of row there is."""

    review: float = Field(0.15, ge=0, lt=1, description="share of the instructions: questions it knows already")
    general: float = Field(0.1, ge=0, lt=1, description="share of the instructions: of `general`, where there is any")
    extractive: float = Field(
        1.0, ge=0, description="most extractive instructions for each normative one: passage and question -> sentence"
    )
    cpt: float | None = Field(None, gt=0, description="most passage tokens for each instruction token; default: all")

    @model_validator(mode="after")
    def _leave_room(self) -> Shares:
        if self.review + self.general >= 1:
            raise ValueError(
                f"review ({self.review}) and general ({self.general}) leave nothing for the mistakes; lower one of them"
            )
        return self


class Stop(Strict):
    """When no further round is trained."""

    delta: float = Field(
        0.0, ge=0, le=1, description="a gain in held-out accuracy below this, in two rounds running, ends the stage"
    )
    flips: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of known held-out answers that may turn wrong in a round (AFR); more ends it",
    )


class Evolve(Strict):
    """One or more rounds: ask, mine mistakes, collect knowledge, build the set, train. Each round is a generation."""

    questions: Sources = Field(min_length=1, description="fields question, answer; choices and subject where they are")
    heldout: float = Field(
        0.25, gt=0, lt=1, description="share of the questions, by their text, that is never learnt from"
    )
    heldout_questions: Sources | None = Field(None, description="held-out questions of their own, instead of a share")
    knowledge: Knowledge
    general: Sources | None = Field(None, description="general instructions, against forgetting")
    instruction: str = Field("Answer the question.", description="what a question's record asks for")
    rounds: int = Field(1, ge=1, le=20)
    exam: Exam = Exam()
    mining: Mining = Mining()
    points: Points = Points()
    shares: Shares = Shares()
    loss: float = Field(
        0.5, ge=0, le=1, description="share of the passages in the loss; the rest is the instructions', however many"
    )
    stop: Stop = Stop()
    control: Literal["none", "format_only", "cpt_only", "cit_only", "cpt_then_cit", "random_documents", "naive"] = (
        Field(
            "none",
            description="instead of the whole set: format_only (instructions without any passage), cpt_only (passages "
            "alone), cit_only (instructions alone, extractive ones among them), cpt_then_cit (one after the other), "
            "random_documents (as many passage tokens, drawn at random), naive (the mistakes with their answers)",
        )
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that changes what a round trains on, but for the content of its sources."""
        sources = {"questions", "heldout_questions", "general"}
        mere = {"rounds", "stop", "of", "number", "half"}
        plain = self.model_dump(mode="json", exclude=sources | mere, exclude_none=True)
        plain["knowledge"].pop("sources")
        plain["exam"].pop("judge", None)  # its word is no part of what makes a mistake
        if self.points.by:
            content = {"model", "revision"} if self.points.by.kind == "model" else set()
            plain["points"]["by"] = {k: v for k, v in plain["points"]["by"].items() if k not in ADDRESSES | content}
        return plain


class Round(Evolve):
    """One round of an evolve stage, as it is planned: the stage `of` that name, the round's number from 1.

    Under cpt_then_cit it is two stages; the second `half` learns from the exam of the first one's parent.
    """

    of: str
    number: int
    half: Literal["", "cpt", "cit"] = ""

    @property
    def is_judged(self) -> bool:
        """Whether what it made is examined: the first half of a round is not, the second one is about both."""
        return self.half != "cpt"
