"""Sources -> validated, deduplicated, tokenised records, on Ray Data. Content-addressed and reused."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clray.data import formatting, preferences
from clray.data.manifest import Manifest, Part, write_part
from clray.data.shuffle import by_part
from clray.data.sources import Opened, Unit, open_source, read_unit
from clray.errors import DataError
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.format import Format
from clray.spec.source import Source

VERSION = 2
FIELDS = (
    *("text", "title", "instruction", "input", "output", "messages", "question", "answer", "choices", "subject"),
    *("prompt", "chosen", "rejected"),
)
"""All fields that a record of some kind may have."""
BYTES_PER_PART = 1 << 24
"""Source text behind one shard file, and so what one task has to hold of a set."""

TOKENS_PER_TABLE = 1 << 18


@dataclass(frozen=True, kw_only=True)
class RecordSpec:
    """What a set of tokenised records is made of; its digest is the set's address."""

    kind: str
    sources: tuple[Opened, ...]
    tokenizer: str
    tokenizer_digest: str
    form: Format
    limit: int

    @property
    def digest(self) -> str:
        """Address of the record set. Plain text depends on neither format nor sequence length.

        The number of parts decides the order of the rows, and so stands in it where there are several.
        """
        formed = [self.form.model_dump(mode="json"), self.limit]
        shapes = {"instruct": formed, "align": formed, "generator": [self.limit]}
        shape = shapes.get(self.kind, [])
        parts = [self.num_parts] if self.num_parts > 1 else []
        return digest([VERSION, self.kind, [s.digest for s in self.sources], self.tokenizer_digest, shape, *parts])

    @property
    def num_parts(self) -> int:
        """Number of shard files, by the bytes of the sources alone."""
        return max(1, math.ceil(sum(s.num_bytes for s in self.sources) / BYTES_PER_PART))


def open_sources(sources: Iterable[Source], store: Store) -> tuple[Opened, ...]:
    """The sources with their files found and digested."""
    return tuple(open_source(source, store) for source in sources)


def prepare(spec: RecordSpec, store: Store) -> Manifest:
    """The record set of the spec: taken from the store, or made on Ray Data and committed.

    Each row holds digest, ids, targets, num_tokens, num_targets and the text of its instruction ("" for plain
    text; a dictionary column, so each instruction stands once a part); a preference pair also num_chosen, the tokens of
    its first half. Rows are sorted by digest within a part
    and stand once, so the set does not depend on the order or layout of the files. Raises DataError with
    file and line at the first record that does not fit.
    """
    folder = f"records/{spec.digest}"
    known = Manifest.take(store, folder)
    if known:
        return known
    units = [unit for source in spec.sources for unit in source.units]
    encode = functools.partial(_encoded, units=units, spec=spec, num_parts=spec.num_parts, store=store)
    write = functools.partial(_write_unique, store=store, folder=folder)
    parts = by_part(len(units), encode, spec.num_parts, write, store)
    left_out = {name: sum(part.pop(name) for part in parts) for name in ("duplicates", "overlong")}
    manifest = Manifest(
        digest=spec.digest,
        folder=folder,
        parts=tuple(sorted((Part(**part) for part in parts), key=lambda p: p.name)),
        provenance={"kind": spec.kind, "sources": [source.provenance for source in spec.sources], **left_out},
    )
    if not manifest.rows:
        raise DataError(
            f"{_names(spec)}: no record is left to train on ({left_out['overlong']} are longer "
            f"than {spec.limit} tokens); raise sequence_length, or set format.overlong=truncate"
        )
    manifest.commit(store)
    return manifest


def read(sources: tuple[Opened, ...], kind: str) -> list[tuple[dict[str, Any], str]]:
    """All records of the sources in file order, checked for the kind's fields, each with its place."""
    from clray.ray_session import run_dataset

    rows = run_dataset(lambda data: dataset(data, sources, kind))
    return [(json.loads(row["record"]), row["place"]) for row in rows]


def dataset(data: Any, sources: Iterable[Opened], kind: str) -> Any:
    """The Ray data set (`data` is ray.data) of the sources' records, see `read_batch`: a block a reading unit."""
    units = [unit for source in sources for unit in source.units]
    return data.from_items(
        [{"unit": index} for index in range(len(units))], override_num_blocks=len(units)
    ).map_batches(functools.partial(read_batch, units=units, kind=kind), batch_size=1, batch_format="pyarrow")


def _names(spec: RecordSpec) -> str:
    return ", ".join(source.provenance["source"] for source in spec.sources)


def read_batch(batch: pa.Table, units: list[Unit], kind: str) -> Iterator[pa.Table]:
    """Streams the units' records as JSON text with their place, checked for the fields that the kind needs."""
    for index in batch["unit"].to_pylist():
        rows: list[tuple[str, str]] = []
        for record, place in checked(units[index], kind):
            rows.append((json.dumps(record, ensure_ascii=False), place))
            if len(rows) == 4096:
                yield _read_table(rows)
                rows = []
        yield _read_table(rows)


def checked(unit: Unit, kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The unit's records in clray's fields, each with its place. DataError where one does not fit, or there is none."""
    place = ""
    for raw, place in read_unit(unit):
        yield normalise(raw, kind, unit.source, place), place
    if not place:
        raise DataError(
            f"{', '.join(unit.files) or unit.source['source']}: holds no record; take the source out or fill it"
        )


def _read_table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"record": pa.array([r for r, _ in rows], pa.string()), "place": pa.array([p for _, p in rows], pa.string())}
    )


def normalise(raw: dict[str, Any], kind: str, source: dict[str, Any], place: str) -> dict[str, Any]:
    """The record in clray's fields. DataError naming place, field and mend where one is missing or empty."""
    names = {field: source["fields"].get(field, field) for field in FIELDS}
    record = {field: raw[name] for field, name in names.items() if raw.get(name) is not None}
    if source["instruction"] is not None:
        record.setdefault("instruction", source["instruction"])
    if kind == "pretrain":
        return {"text": _filled(record, "text", names, raw, place)}
    if kind == "knowledge":
        title = {"title": _filled(record, "title", names, raw, place)} if record.get("title") else {}
        return {"text": _filled(record, "text", names, raw, place), **title}
    if kind == "question":
        _filled(record, "question", names, raw, place)
        if not isinstance(record.get("answer"), list):
            record["answer"] = [_filled(record, "answer", names, raw, place)]
        return {field: record[field] for field in ("question", "answer", "choices", "subject") if field in record}
    if kind == "align":
        return preferences.normalise(record, place)
    if "messages" in record:
        return {"messages": _checked_messages(record["messages"], place)}
    _filled(record, "instruction", names, raw, place)
    if not isinstance(record.get("output"), list):
        record["output"] = _filled(record, "output", names, raw, place)
    return {field: record[field] for field in ("instruction", "input", "output", "choices") if field in record}


def _filled(record: dict[str, Any], field: str, names: dict[str, str], raw: dict[str, Any], place: str) -> str:
    value = record.get(field)
    if value is None:
        raise DataError(
            f"{place}: the record has no '{names[field]}'; its fields are {', '.join(map(str, raw)) or 'none'}. "
            f"Map another with fields: {{{field}: NAME}}"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{place}: '{names[field]}' must be text, found {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{place}: '{names[field]}' is empty; leave the record out or fill it")
    return value


def _checked_messages(messages: Any, place: str) -> list[dict[str, str]]:
    fits = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
    )
    if not fits or not any(m["role"] == "assistant" for m in messages):
        raise DataError(f"{place}: 'messages' must be a list of {{role, content}} with at least one assistant turn")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


@functools.lru_cache(maxsize=4)
def tokenizer(folder: str) -> Any:
    """The tokenizer of the folder, loaded once a process."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def tokenizer_here(folder: str, mark: str, store: Store) -> Any:
    """The tokenizer of digest `mark` in any process: what the driver fetched to `folder` may lie on its node alone."""
    return tokenizer(folder if store.local else str(store.fetch(f"tokenizers/{mark}")))


def _encoded(number: int, units: list[Unit], spec: RecordSpec, num_parts: int, store: Store) -> Iterator[pa.Table]:
    """Token ids and targets of a unit's records (none where one is left out), with digest and part."""
    encoder = tokenizer_here(spec.tokenizer, spec.tokenizer_digest, store)
    rows: list[formatting.Encoded] = []
    instructions: list[str] = []
    firsts: list[int] = []
    waiting = 0
    for record, place in checked(units[number], spec.kind):
        instructions.append(formatting.instruction_text(record))
        if spec.kind == "align":
            encoded, first = preferences.encode(encoder, record, spec.form, spec.limit, place) or (None, 0)
            firsts.append(first)
        else:
            encoded = _encode(encoder, record, spec, place)
        rows.append(encoded or formatting.Encoded([], []))
        waiting += len(rows[-1].ids) + 1
        if waiting >= TOKENS_PER_TABLE:
            yield _record_table(rows, instructions, num_parts, firsts)
            rows, instructions, firsts, waiting = [], [], [], 0
    if rows:
        yield _record_table(rows, instructions, num_parts, firsts)


def _encode(encoder: Any, record: dict[str, Any], spec: RecordSpec, place: str) -> formatting.Encoded | None:
    match spec.kind:
        case "pretrain":
            return formatting.encode_document(encoder, record["text"])
        case "generator":
            return formatting.encode_question(encoder, record, spec.limit)
        case _:
            return formatting.encode_example(encoder, _single(record), spec.form, spec.limit, place)


def _single(record: dict[str, Any]) -> dict[str, Any]:
    """The record with one output to train on: the first of several references."""
    output = record.get("output")
    return {**record, "output": output[0]} if isinstance(output, list) else record


def _record_table(
    rows: list[formatting.Encoded], instructions: list[str], num_parts: int, firsts: list[int]
) -> pa.Table:
    digests = [digest([row.ids, "".join("01"[t] for t in row.targets)]) for row in rows]
    chosen = {"num_chosen": pa.array(firsts, pa.int32())} if firsts else {}
    return pa.table(
        {
            "digest": pa.array(digests, pa.string()),
            "ids": pa.array([row.ids for row in rows], pa.list_(pa.int32())),
            "targets": pa.array([row.targets for row in rows], pa.list_(pa.bool_())),
            "num_tokens": pa.array([len(row.ids) for row in rows], pa.int32()),
            "num_targets": pa.array([sum(row.targets) for row in rows], pa.int32()),
            "instruction": pa.array(instructions, pa.string()),
            "part": pa.array([int(d[:8], 16) % num_parts for d in digests], pa.int32()),
            **chosen,
        }
    )


def _write_unique(number: int, table: pa.Table, store: Store, folder: str) -> dict[str, Any]:
    """Writes one part, each digest once; returns its manifest entry and what was left out."""
    table = table.sort_by("digest")
    names, sizes = table["digest"].to_pylist(), table["num_tokens"].to_pylist()
    filled = [index for index in range(len(names)) if sizes[index]]
    keep = [index for index in filled if index == 0 or names[index] != names[index - 1]]
    kept = table.take(pa.array(keep, pa.int64()))
    place = kept.schema.get_field_index("instruction")
    kept = kept.set_column(place, "instruction", kept["instruction"].combine_chunks().dictionary_encode())
    part = write_part(store, folder, number, kept)
    counts = {"duplicates": len(filled) - len(keep), "overlong": len(names) - len(filled)}
    return {**dataclasses.asdict(part), **counts}
