"""What mistakes lack: their points, looked up in the knowledge; what gives held-out questions away is left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clray.data.questions import Question
from clray.evolving.round import READING, RoundSpec
from clray.instructions import points as by_model
from clray.instructions import workers
from clray.instructions.lexical import lexical_tags
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining import retrieval
from clray.mining.building import best_first, within
from clray.mining.dense import Embedding
from clray.mining.leak import HeldOut
from clray.mining.points import holds_one, occurring, points, query
from clray.mining.retrieval import Knowledge
from clray.mining.shelf import Passage


@dataclass(frozen=True)
class Gathered:
    """The set of passages that was searched; by a mistake's name its points, and what was found for it with its scores;
    the passages to read, and how many were left out because they give a held-out question away."""

    knowledge: str
    points: dict[str, list[str]]
    found: dict[str, list[tuple[Passage, float]]]
    passages: list[Passage]
    leaks: int


def gather(spec: RoundSpec, lacking: Sequence[Question], heldout: HeldOut, store: Store) -> Gathered:
    """Looks up what the mistakes lack."""
    knowledge = knowledge_of(spec, store)
    texts = [" ".join([one.text, *one.options, *one.answers]) for one in lacking]
    settings = spec.round.points
    by = spec.points_by
    if by:
        found = occurring(
            by_model.named(texts, by, settings.most, store, spec.evaluation), settings.most, knowledge.idf
        )
    elif settings.kind == "phrases":
        tags = lexical_tags(texts, most=4 * settings.most, language=settings.language)
        found = points(tags, texts, settings.most, knowledge.idf)
    else:
        found = [[] for _ in lacking]
    queries = [query(one.text, one.answers, some) for one, some in zip(lacking, found, strict=True)]
    hits = retrieval.search(knowledge, queries, spec.round.knowledge.top)
    wanted = list(dict.fromkeys(hit.passage for some in hits for hit in some))
    by_digest = {passage.digest: passage for passage in knowledge.passages(wanted)}
    leaking = heldout.leaks(_text(by_digest[mark]) for mark in wanted)
    out = {wanted[number] for number in leaking}
    given = {
        one.name: [
            (by_digest[hit.passage], hit.score)
            for hit in some
            if hit.passage not in out and holds_one(_text(by_digest[hit.passage]), points_)
        ]
        for one, some, points_ in zip(lacking, hits, found, strict=True)
    }
    passages = best_first(given)
    if spec.round.control == "random_documents":
        passages = _at_random(knowledge, sum(passage.num_tokens for passage in passages), heldout, spec.seed)
    return Gathered(
        knowledge=knowledge.digest,
        points={one.name: some for one, some in zip(lacking, found, strict=True)},
        found=given,
        passages=passages if spec.round.control in READING else [],
        leaks=len(out),
    )


def _at_random(knowledge: Knowledge, tokens: int, heldout: HeldOut, seed: int) -> list[Passage]:
    """Passages drawn from all the knowledge, of about so many tokens in all."""
    marks = knowledge.shelf.digests(np.arange(len(knowledge.shelf)))
    random.Random(seed).shuffle(marks)
    taken: list[Passage] = []
    for start in range(0, len(marks), 256):
        some = knowledge.passages(marks[start : start + 256])
        leaking = heldout.leaks(map(_text, some))
        taken += [passage for number, passage in enumerate(some) if number not in leaking]
        if sum(passage.num_tokens for passage in taken) >= tokens:
            break
    return within(taken, tokens)


def _text(passage: Passage) -> str:
    return f"{passage.title}\n\n{passage.text}"


def knowledge_of(spec: RoundSpec, store: Store) -> Knowledge:
    asked, embedding = spec.round.knowledge, None
    if asked.retriever.kind == "dense":
        encoder = asked.retriever.encoder.model_dump(mode="json", exclude_none=True)
        if encoder["kind"] == "generation":
            encoder = {"kind": "generation", "key": spec.examined}
        else:
            encoder = {"kind": encoder["kind"], "model": spec.encoder_model}
        embedding = Embedding(
            digest=digest(encoder),
            of=lambda texts: np.stack(workers.embed(texts, encoder, store, spec.evaluation)),
        )
    return retrieval.prepare(asked, spec.tokenizer, spec.tokenizer_digest, store, embedding)
