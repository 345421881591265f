"""One round of an evolve stage as it is planned: whose mistakes, which questions, which knowledge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.data import records
from clray.data.questions import QuestionSpec
from clray.data.sources import Opened
from clray.evaluation.exam import ExamSpec
from clray.instructions.kept import keep_model
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.evolve import Round
from clray.spec.format import Format
from clray.spec.stream import Evaluation, Stream

VERSION = 1
READING = frozenset({"none", "cpt_only", "random_documents"})
"""Controls under which passages are read."""
SEARCHING = READING | {"cit_only"}
"""Controls that look for passages."""


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """What a round's set is made of: the mistakes of generation `examined`, and the sources of the stage.

    `form` and `limit` (tokens) are those of the rows it is trained on; `seed` decides its draws. `point_model` and
    `encoder_model` are the digests under which the store keeps the local model that names points and the encoder of a
    dense retriever, where there is one beside the stream's own.
    """

    round: Round
    examined: str
    questions: QuestionSpec
    exam: ExamSpec
    knowledge: tuple[Opened, ...]
    general: tuple[Opened, ...]
    form: Format
    limit: int
    tokenizer: str
    tokenizer_digest: str
    evaluation: Evaluation
    seed: int
    point_model: str | None = None
    encoder_model: str | None = None

    @property
    def sources(self) -> list[str]:
        """Digests of all that the set is made of but the examined generation, for keys."""
        files = [source.digest for source in (*self.knowledge, *self.general)]
        models = [mark for mark in (self.point_model, self.encoder_model) if mark]
        return [self.questions.digest, *files, *models]

    @property
    def points_by(self) -> dict[str, Any] | None:
        """The model that names points, as plain values with the digest of a local one; None where a library does."""
        by = self.round.points.by
        if by is None:
            return None
        return {**by.model_dump(), **({"model": self.point_model, "revision": None} if self.point_model else {})}

    @property
    def digest(self) -> str:
        """Address of the set."""
        form = self.form.model_dump(mode="json")
        made = [self.round.settings, self.examined, self.exam.plain.digest, self.sources, form, self.limit, self.seed]
        return digest([VERSION, *made])

    @property
    def folder(self) -> str:
        """Where the set lies in the store."""
        return f"mined/{self.digest}"

    def receipt(self) -> dict[str, Any]:
        """Whose mistakes were learnt from, and where set and exams lie, for the generation's record."""
        return {
            "examined": self.examined,
            "questions": self.questions.digest,
            "exam": self.exam.plain.digest,
            "set": self.folder,
            "control": self.round.control,
        }


def round_spec(
    asked: Round,
    examined: str,
    form: Format,
    limit: int,
    tokenizer: str,
    tokenizer_digest: str,
    stream: Stream,
    store: Store,
) -> RoundSpec:
    """The round with its sources found and digested."""
    questioned = QuestionSpec(
        sources=records.open_sources(asked.questions, store),
        heldout_sources=records.open_sources(asked.heldout_questions or (), store),
        heldout=asked.heldout,
    )
    by, encoder = asked.points.by, getattr(asked.knowledge.retriever, "encoder", None)
    return RoundSpec(
        round=asked,
        examined=examined,
        questions=questioned,
        exam=ExamSpec(
            questions=questioned.digest,
            tokenizer=tokenizer,
            tokenizer_digest=tokenizer_digest,
            form=form,
            instruction=asked.instruction,
            limit=limit,
            precision=stream.compute.precision,
            seed=stream.seed,
            **asked.exam.model_dump(),
        ),
        knowledge=records.open_sources(asked.knowledge.sources, store),
        general=records.open_sources(asked.general or (), store),
        form=form,
        limit=limit,
        tokenizer=tokenizer,
        tokenizer_digest=tokenizer_digest,
        evaluation=stream.evaluation,
        seed=stream.seed,
        point_model=keep_model(by.model, by.revision, "points.by.model", store) if by and by.kind == "model" else None,
        encoder_model=None
        if encoder is None or encoder.kind == "generation"
        else keep_model(encoder.model, encoder.revision, "knowledge.retriever.encoder.model", store),
    )
