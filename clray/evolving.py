"""A round of an evolve stage: what a generation gets wrong, the knowledge it lacks, and the set made of both (CEM).

questions --exam--> mistakes --points, search--> passages --building--> mined/<digest>/*.parquet + manifest.json
                                                                            |
exam of the new generation --> evolved/<key>.json        record sets of each kind, mixed and trained on
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clray.data import questions, records
from clray.data.manifest import Manifest, Part
from clray.data.questions import Question, QuestionSpec
from clray.data.sources import Opened, open_source
from clray.errors import DataError
from clray.evaluation import evolution
from clray.evaluation.actors import ScoringPool
from clray.evaluation.exam import ExamSpec
from clray.instructions import kept, workers
from clray.instructions.lexical import lexical_tags
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining import retrieval
from clray.mining.building import KINDS, Asked, best_first, build, within
from clray.mining.dense import Embedding
from clray.mining.leak import HeldOut
from clray.mining.points import holds_one, points, query
from clray.mining.retrieval import Knowledge
from clray.mining.shelf import Passage
from clray.spec.evolve import Round
from clray.spec.source import Source
from clray.spec.stream import Evaluation, Format, Stream

VERSION = 1
READING = frozenset({"none", "cpt_only", "random_documents"})
"""Controls under which passages are read."""
SEARCHING = READING | {"cit_only"}
"""Controls that look for passages."""
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """What a round's set is made of: the mistakes of generation `examined`, and the sources of the stage.

    `form` and `limit` (tokens) are those of the rows it is trained on; `seed` decides its draws.
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

    @property
    def sources(self) -> list[str]:
        """Digests of all that the set is made of but the examined generation, for keys."""
        return [self.questions.digest, *(source.digest for source in (*self.knowledge, *self.general))]

    @property
    def digest(self) -> str:
        """Address of the set."""
        form = self.form.model_dump(mode="json")
        made = [self.round.settings, self.examined, self.exam.digest, self.sources, form, self.limit, self.seed]
        return digest([VERSION, *made])

    @property
    def folder(self) -> str:
        """Where the set lies in the store."""
        return f"mined/{self.digest}"

    def receipt(self) -> dict[str, Any]:
        """Whose mistakes were learnt from, and where set and exams lie, for the generation's record."""
        return {"examined": self.examined, "set": self.folder, "exam": self.exam.digest, "control": self.round.control}


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
    )


def ready(spec: RoundSpec, store: Store) -> None:
    """Reads and checks the questions, cuts and indexes the knowledge: all that needs no trained generation."""
    questions.read(spec.questions, store)
    if spec.general:
        records.read(spec.general, "instruct")
    if spec.round.control in SEARCHING and spec.round.knowledge.retriever.kind == "bm25":
        _knowledge(spec, store)


def mined(spec: RoundSpec, store: Store) -> dict[str, Any] | None:
    """The manifest of the round's set; None where it is not made yet."""
    found: dict[str, Any] | None = store.read_json(f"{spec.folder}/manifest.json")
    return found


def sets(spec: RoundSpec, store: Store) -> list[tuple[str, records.RecordSpec]] | None:
    """Kind and record set of all that the round is trained on; None where it is not made yet."""
    manifest = mined(spec, store)
    if manifest is None:
        return None
    form = spec.form.model_copy(update={"overlong": "skip"}) if spec.form.overlong == "error" else spec.form
    return [
        (
            kind,
            records.RecordSpec(
                kind="pretrain" if kind == "cpt" else "instruct",
                sources=(open_source(Source(source=_place(store, f"{spec.folder}/{kind}.parquet")), store),),
                tokenizer=spec.tokenizer,
                tokenizer_digest=spec.tokenizer_digest,
                form=form,
                limit=spec.limit,
            ),
        )
        for kind in KINDS
        if manifest["rows"][kind]
    ]


def guess(spec: RoundSpec, store: Store) -> Manifest:
    """About what the round's set will come to at most, without files: every question wrong, each with new passages."""
    asked = spec.round
    mistakes = sum(1 for one in questions.read(spec.questions, store) if not one.heldout)
    mistakes = min(mistakes, asked.mining.limit or mistakes)
    read = mistakes * asked.knowledge.top * asked.knowledge.tokens if asked.control in READING else 0
    read = min(read, sum(source.num_bytes for source in spec.knowledge) // 3)
    answered = 0 if asked.control == "cpt_only" else mistakes
    part = Part(
        name="",
        rows=max(1, mistakes * asked.knowledge.top + answered),
        tokens=max(1, read + answered * spec.limit // 2),
        targets=max(1, read + answered * asked.exam.max_new_tokens),
        sha256="",
    )
    return Manifest(digest=spec.digest, folder="", parts=(part,))


def mine(spec: RoundSpec, store: Store, pool: ScoringPool, say: Callable[[str], None], watch: Watch) -> dict[str, Any]:
    """The manifest of the round's set, which is then in the store. DataError where there is nothing to learn.

    Killed at any moment and called again, it goes on from what was asked and indexed.
    """
    known = mined(spec, store)
    if known:
        return known
    pairs = _answered(spec, store, pool, watch)
    kinds = {one.name: evolution.kind_of(result, *_thresholds(spec)) for one, result in pairs}
    mistakes = _mistakes(spec, pairs, kinds)
    if not mistakes:
        raise DataError(
            f"stage '{spec.round.of}': generation {spec.examined[:10]} gets none of its {len(pairs)} questions wrong "
            "and is sure of all; there is nothing to evolve from: end the stream before this stage, or give others"
        )
    lacking = [one for one in mistakes if kinds[one.name] in ("knowledge", "ambiguous")]
    heldout = HeldOut((one.name, one.question, one.answers) for one in _questions(spec, store) if one.heldout)
    gathered = _gather(spec, lacking, heldout, store) if spec.round.control in SEARCHING else Gathered({}, {}, [], 0)
    built = build(
        control=spec.round.control,
        mistakes=[_asked(spec, one) for one in mistakes],
        known=[_asked(spec, one) for one, _ in pairs if kinds[one.name] == "known" and not one.heldout],
        found={name: [passage for passage, _ in hits] for name, hits in gathered.found.items()},
        passages=gathered.passages,
        general=[record for record, _ in records.read(spec.general, "instruct")] if spec.general else [],
        shares=spec.round.shares.model_dump(exclude={"cpt"}),
        heldout=heldout,
        seed=spec.seed,
    )
    rows = _capped(spec, built.rows)
    if not any(rows.values()):
        raise DataError(
            f"stage '{spec.round.of}': nothing was found in the knowledge for {len(lacking)} mistakes, so the set of "
            f"control '{spec.round.control}' is empty; take other sources of knowledge, or raise knowledge.top"
        )
    manifest = {
        "examined": spec.examined,
        "control": spec.round.control,
        "questions": {
            kind: sum(1 for o, _ in pairs if not o.heldout and kinds[o.name] == kind)
            for kind in get_args(evolution.Kind)
        },
        "mistakes": len(mistakes),
        "points": sum(map(len, gathered.points.values())),
        "passages": len({passage.digest for hits in gathered.found.values() for passage, _ in hits}),
        "rows": {kind: len(rows[kind]) for kind in KINDS},
        "tokens_read": sum(passage.num_tokens for passage in gathered.passages),
        "leaks": [{"kind": kind, "question": leak.question, "run": leak.run} for kind, leak in built.leaks],
        "leaking_passages": gathered.leaks,
        "files": _write(spec, rows, store),
        "looked_up": {name: found[: spec.round.points.most] for name, found in gathered.points.items()},
        "given": {name: [passage.digest for passage, _ in hits] for name, hits in gathered.found.items()},
    }
    store.write_json(f"{spec.folder}/manifest.json", manifest)
    say(_sentence(manifest))
    return manifest


def judge(
    spec: RoundSpec, key: str, before: Sequence[dict[str, Any]], store: Store, pool: ScoringPool, watch: Watch
) -> dict[str, Any]:
    """What the round brought: generation `key` beside the one it started from, and why the stage ends here, if it does.

    `before` are the judgements of the stage's earlier rounds, in order. Kept in the store.
    """
    place = f"evolved/{key}.json"
    known: dict[str, Any] | None = store.read_json(place)
    if known:
        return known
    after = pool.examine(key, spec.exam, store, watch)
    manifest = mined(spec, store) or {}
    found = evolution.compare(
        pool.examine(spec.examined, spec.exam, store, watch), after, manifest.get("tokens_read", 0)
    )
    history = [*(judgement["change"] for judgement in before), found]
    stop = spec.round.stop
    judgement = {
        "stage": spec.round.of,
        "round": spec.round.number,
        "examined": spec.examined,
        "exam": spec.exam.digest,
        "mined": spec.digest,
        "change": found,
        "stop": evolution.should_stop(history, stop.delta, stop.flips),
    }
    store.write_json(place, judgement)
    return judgement


def judgement_of(key: str, store: Store) -> dict[str, Any] | None:
    """What was found of the round that made generation `key`; None where it was not judged yet."""
    found: dict[str, Any] | None = store.read_json(f"evolved/{key}.json")
    return found


def said(judgement: dict[str, Any]) -> str:
    """A judgement in one sentence."""
    seen = judgement["change"]["heldout"]["likelihood"]
    text = f"held-out accuracy {seen['before']:.3f} -> {seen['after']:.3f}"
    if seen["repaired"] is not None:
        text += f", {seen['repaired']:.1%} of the wrong ones repaired"
    if seen["afr"] is not None:
        text += f", {seen['afr']:.1%} of the right ones turned wrong"
    return f"{text}; no further round: {judgement['stop']}" if judgement["stop"] else text


def _thresholds(spec: RoundSpec) -> tuple[float, float]:
    return spec.round.mining.entropy, spec.round.mining.margin


def _questions(spec: RoundSpec, store: Store) -> list[Question]:
    return questions.read(spec.questions, store)


def _answered(spec: RoundSpec, store: Store, pool: ScoringPool, watch: Watch) -> list[tuple[Question, dict[str, Any]]]:
    """Each question with its result in the exam of the examined generation."""
    results = {result["name"]: result for result in pool.examine(spec.examined, spec.exam, store, watch)}
    return [(one, results[one.name]) for one in _questions(spec, store)]


def _mistakes(
    spec: RoundSpec, pairs: Sequence[tuple[Question, dict[str, Any]]], kinds: dict[str, str]
) -> list[Question]:
    """The questions to learn from, those first whose answer is held least likely."""
    wrong = [(one, result) for one, result in pairs if not one.heldout and kinds[one.name] != "known"]
    wrong.sort(key=lambda pair: (pair[1]["p"][pair[1]["gold"]], pair[0].name))
    return [one for one, _ in wrong][: spec.round.mining.limit]


def _asked(spec: RoundSpec, one: Question) -> Asked:
    record = {**questions.as_record(one, spec.round.instruction), "output": one.answers[0]}
    return Asked(name=one.name, question=one.question, answers=one.answers, record=record)


@dataclass(frozen=True)
class Gathered:
    """By a mistake's name its points, and the passages that were found for it with their scores; the passages to read,
    and how many were left out because they give a held-out question away."""

    points: dict[str, list[str]]
    found: dict[str, list[tuple[Passage, float]]]
    passages: list[Passage]
    leaks: int


def _gather(spec: RoundSpec, lacking: Sequence[Question], heldout: HeldOut, store: Store) -> Gathered:
    """Looks up what the mistakes lack."""
    knowledge = _knowledge(spec, store)
    texts = [" ".join([one.question, *one.options, *one.answers]) for one in lacking]
    settings = spec.round.points
    if settings.kind == "phrases":
        tags = lexical_tags(texts, most=4 * settings.most, language=settings.language)
        found = points(tags, texts, settings.most, knowledge.idf)
    else:
        found = [[] for _ in lacking]
    queries = [query(one.question, one.answers, some) for one, some in zip(lacking, found, strict=True)]
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


def _knowledge(spec: RoundSpec, store: Store) -> Knowledge:
    asked, embedding = spec.round.knowledge, None
    if asked.retriever.kind == "dense":
        encoder = asked.retriever.encoder.model_dump(mode="json", exclude_none=True)
        if encoder["kind"] == "generation":
            encoder = {"kind": "generation", "key": spec.examined}
        else:
            name, revision = encoder["model"], encoder.pop("revision", None)
            encoder["model"] = kept.keep_model(name, revision, "knowledge.retriever.encoder.model", store)
        embedding = Embedding(
            digest=digest(encoder),
            of=lambda texts: np.stack(workers.embed(texts, encoder, store, spec.evaluation)),
        )
    return retrieval.prepare(asked, spec.tokenizer, spec.tokenizer_digest, store, embedding)


def _capped(spec: RoundSpec, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows with no more passage tokens than `shares.cpt` allows for each instruction token."""
    most = spec.round.shares.cpt
    if most is None or not rows["cpt"] or not any(rows[kind] for kind in KINDS[1:]):
        return rows
    tokenizer = records.tokenizer(spec.tokenizer)

    def size(row: dict[str, Any]) -> int:
        parts = [row.get("text"), row.get("instruction"), row.get("input"), row.get("output")]
        return len(tokenizer(" ".join(str(part) for part in parts if part), add_special_tokens=False)["input_ids"])

    room = most * sum(size(row) for kind in KINDS[1:] for row in rows[kind])
    sums = np.cumsum([size(row) for row in rows["cpt"]])
    return {**rows, "cpt": rows["cpt"][: max(1, int((sums <= room).sum()))]}


def _write(spec: RoundSpec, rows: dict[str, list[dict[str, Any]]], store: Store) -> dict[str, str]:
    """Writes each kind's rows as Parquet; file name -> digest of the rows."""
    files = {}
    for kind in KINDS:
        if rows[kind]:
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows[kind]), sink)
            store.write_bytes(f"{spec.folder}/{kind}.parquet", sink.getvalue())
            files[f"{kind}.parquet"] = digest(rows[kind])
    return files


def _place(store: Store, relative: str) -> str:
    return store.path(relative) if store.local else store.uri(relative)


def _sentence(manifest: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in manifest["questions"].items())
    rows = ", ".join(f"{count:,} {kind}" for kind, count in manifest["rows"].items() if count)
    return (
        f"mined {manifest['mistakes']} mistakes ({kinds}) -> {manifest['points']} points -> {manifest['passages']} "
        f"passages, {manifest['leaking_passages']} left out as they give held-out questions away -> rows: {rows}"
    )


def alone(spec: RoundSpec, root: str) -> RoundSpec:
    """The same round for the base model `root`."""
    return replace(spec, examined=root)
