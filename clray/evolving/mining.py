"""The set of a round: mined from mistakes once, kept as Parquet under its address, and read as record sets."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clray.data import formatting, questions, records
from clray.data.manifest import Manifest, Part
from clray.data.questions import Question
from clray.data.sources import open_source
from clray.errors import NothingToLearn
from clray.evaluation import exam, grades
from clray.evaluation.actors import ScoringPool
from clray.evaluation.evolution import Kind, Result, kind_of
from clray.evolving.gathering import Gathered, gather, knowledge_of
from clray.evolving.round import READING, SEARCHING, RoundSpec
from clray.instructions import points as by_model
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.mining.building import KINDS, Asked, build
from clray.mining.leak import HeldOut
from clray.spec.format import Format
from clray.spec.source import Source

Watch = Callable[[int, int], None]
"""Is told the finished and all parts of an exam."""


def ready(spec: RoundSpec, store: Store) -> None:
    """Reads and checks the questions, cuts and indexes the knowledge: all that needs no trained generation."""
    asked = questions.read(spec.questions, store)
    exam.sheets(records.tokenizer(spec.tokenizer), asked, spec.exam)
    if spec.exam.judge:
        free = sum(1 for one in asked if not one.options)
        grades.check(spec.exam.judge, free, f"stage '{spec.round.of}'")
    if spec.points_by and spec.round.control in SEARCHING:
        by_model.ready(spec.points_by, spec.round.points.most)
    if spec.general:
        records.read(spec.general, "instruct")
    if spec.round.control in SEARCHING and spec.round.knowledge.retriever.kind == "bm25":
        knowledge_of(spec, store)


def mined(spec: RoundSpec, store: Store) -> dict[str, Any] | None:
    """The manifest of the round's set; None where it is not made yet."""
    found: dict[str, Any] | None = store.read_json(f"{spec.folder}/manifest.json")
    return found


def sets(spec: RoundSpec, store: Store) -> list[tuple[str, records.RecordSpec]] | None:
    """Kind and record set of all that the round is trained on; None where it is not made yet."""
    manifest = mined(spec, store)
    if manifest is None:
        return None
    return [
        (
            kind,
            records.RecordSpec(
                kind="pretrain" if kind == "cpt" else "instruct",
                sources=(open_source(Source(source=_place(store, f"{spec.folder}/{kind}.parquet")), store),),
                tokenizer=spec.tokenizer,
                tokenizer_digest=spec.tokenizer_digest,
                form=_form(spec),
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
    """The manifest of the round's set, which is then in the store. NothingToLearn where it would be empty.

    Killed at any moment and called again, it goes on from what was asked and indexed.
    """
    known = mined(spec, store)
    if known:
        return known
    pairs = _answered(spec, store, pool, watch)
    settings = spec.round.mining
    kinds = {one.name: kind_of(result, settings.entropy, settings.margin) for one, result in pairs}
    mistakes = _mistakes(spec, pairs, kinds)
    if not mistakes:
        raise NothingToLearn(
            f"stage '{spec.round.of}': generation {spec.examined[:10]} gets none of its {len(pairs)} questions wrong "
            "and is sure of all; there is nothing to evolve from: end the stream before this stage, or give others"
        )
    lacking = [one for one in mistakes if kinds[one.name] in ("knowledge", "ambiguous")]
    apart = [one for one in questions.read(spec.questions, store) if one.heldout]
    heldout = HeldOut((one.name, one.text, (*one.options, *one.answers)) for one in apart)
    gathered = gather(spec, lacking, heldout, store) if spec.round.control in SEARCHING else Gathered("", {}, {}, [], 0)
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
    fitting = _fitting(spec, built.rows)
    rows = _capped(spec, fitting)
    if not any(rows.values()):
        raise NothingToLearn(
            f"stage '{spec.round.of}': nothing was found in the knowledge for {len(lacking)} mistakes, so the set of "
            f"control '{spec.round.control}' is empty; take other sources of knowledge, or raise knowledge.top"
        )
    manifest = {
        "examined": spec.examined,
        "control": spec.round.control,
        "questions": {
            kind: sum(1 for o, _ in pairs if not o.heldout and kinds[o.name] == kind) for kind in get_args(Kind)
        },
        "knowledge": gathered.knowledge,
        "mistakes": len(mistakes),
        "points": sum(map(len, gathered.points.values())),
        "passages": len({passage.digest for hits in gathered.found.values() for passage, _ in hits}),
        "rows": {kind: len(rows[kind]) for kind in KINDS},
        "tokens_read": sum(passage.num_tokens for passage in gathered.passages),
        "too_long": {kind: len(built.rows[kind]) - len(fitting[kind]) for kind in KINDS},
        "leaks": [{"kind": kind, "question": leak.question, "run": leak.run} for kind, leak in built.leaks],
        "leaking_passages": gathered.leaks,
        "files": _write(spec, rows, store),
        "looked_up": {name: found[: spec.round.points.most] for name, found in gathered.points.items()},
        "given": {name: [passage.digest for passage, _ in hits] for name, hits in gathered.found.items()},
    }
    store.write_json(f"{spec.folder}/manifest.json", manifest)
    say(_sentence(manifest))
    return manifest


def _answered(spec: RoundSpec, store: Store, pool: ScoringPool, watch: Watch) -> list[tuple[Question, Result]]:
    """Each question that was asked with its result in the exam of the examined generation."""
    asked = questions.read(spec.questions, store)
    results = {result["name"]: result for result in pool.examine(spec.examined, spec.exam.plain, store, watch)}
    return [(one, results[one.name]) for one in asked if one.name in results]


def _mistakes(spec: RoundSpec, pairs: Sequence[tuple[Question, Result]], kinds: dict[str, Kind]) -> list[Question]:
    """The questions to learn from, those first whose answer is held least likely."""
    wrong = [(one, result) for one, result in pairs if not one.heldout and kinds[one.name] != "known"]
    wrong.sort(key=lambda pair: (pair[1]["p"][pair[1]["gold"]], pair[0].name))
    return [one for one, _ in wrong][: spec.round.mining.limit]


def _asked(spec: RoundSpec, one: Question) -> Asked:
    record = {**one.record(spec.round.instruction), "output": one.gold}
    return Asked(name=one.name, question=one.text, answers=one.answers, record=record)


def _fitting(spec: RoundSpec, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows without the instructions that are longer than a sequence; under `overlong: truncate` all fit."""
    tokenizer, form = records.tokenizer(spec.tokenizer), _form(spec)

    def fits(row: dict[str, Any]) -> bool:
        single = {**row, "output": row["output"][0]} if isinstance(row.get("output"), list) else row
        return formatting.encode_example(tokenizer, single, form, spec.limit, "mined row") is not None

    return {kind: some if kind == "cpt" else [row for row in some if fits(row)] for kind, some in rows.items()}


def _form(spec: RoundSpec) -> Format:
    """How rows become text: one that does not fit is no error of who wrote the stream, and is left out."""
    return spec.form.model_copy(update={"overlong": "skip"}) if spec.form.overlong == "error" else spec.form


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
