"""Questions with known answers, split once into those to learn from (mine) and those never learnt from (held out)."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clray.data import records
from clray.data.sources import Opened
from clray.data.wording import normalised
from clray.errors import DataError
from clray.lineage.key import digest
from clray.lineage.store import Store

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, its right answers (the first is the gold one) and the options to choose from, none if it is free."""

    text: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    subject: str = ""
    heldout: bool = False

    @functools.cached_property
    def name(self) -> str:
        """Digest of its content; on which side of the split it stands is no part of it."""
        return digest([self.text, self.answers, self.options, self.subject])

    @property
    def gold(self) -> str:
        """The right answer that is asked for and trained on."""
        return self.answers[0]

    def record(self, instruction: str, options: Sequence[str] | None = None) -> dict[str, str]:
        """The instruction record that asks it, without its answer; `options` are its own in another order."""
        shown = self.options if options is None else options
        return {"instruction": instruction, "input": "\n".join([self.text, *(f"- {option}" for option in shown)])}


@dataclass(frozen=True, kw_only=True)
class QuestionSpec:
    """Where questions come from and how they are split; its digest is the set's address.

    Held out are the questions of `heldout_sources`, or where there are none the share `heldout` of all. `limit` is the
    most questions that are taken.
    """

    sources: tuple[Opened, ...]
    heldout_sources: tuple[Opened, ...] = ()
    heldout: float
    limit: int | None = None

    @property
    def digest(self) -> str:
        """Everything that changes the set; the order of the sources does not."""
        own, other = (sorted(s.digest for s in some) for some in (self.sources, self.heldout_sources))
        return digest([VERSION, own, other or self.heldout, self.limit])


def read(spec: QuestionSpec, store: Store) -> list[Question]:
    """The questions, each once, in the order of their names; they are then in the store at questions/<digest>.json.

    Which side a question stands on is decided by its normalised text alone, so that no other wording, options, layout
    of files or seed has it on both. DataError with file and line where one does not fit, and where a side is empty.
    """
    place = f"questions/{spec.digest}.json"
    if not store.exists(place):
        found = split(_read(spec.sources), _read(spec.heldout_sources), spec.heldout)[: spec.limit]
        _check_sides(found, spec)
        store.write_json(place, [asdict(question) for question in found])
    return list(load(store, spec.digest))


@functools.lru_cache(maxsize=16)
def load(store: Store, questions_digest: str) -> tuple[Question, ...]:
    """The questions of that digest, which `read` has put into the store; read once a process."""
    plain = store.read_json(f"questions/{questions_digest}.json")
    lists = ("answers", "options")
    return tuple(Question(**{**item, **{name: tuple(item[name]) for name in lists}}) for item in plain)


def split(found: Iterable[Question], kept_apart: Iterable[Question], share: float) -> list[Question]:
    """All questions, each once and with its side, in the order of their names.

    Where questions are kept apart, they and all others of the same text are held out; else the `share` of them whose
    text's digest says so, so that a larger share holds out the same and more.
    """
    apart = list(kept_apart)
    names = {normalised(question.text) for question in apart}
    groups: dict[Any, list[Question]] = defaultdict(list)
    for question in [*found, *apart]:
        text = normalised(question.text)
        heldout = text in names if apart else int(digest(["heldout", text], 13), 16) < share * 16**13
        choice = (normalised(question.gold), *sorted(map(normalised, question.options))) if question.options else ()
        groups[text, choice].append(replace(question, heldout=heldout))
    return sorted((_one(group) for group in groups.values()), key=lambda question: question.name)


def _one(group: list[Question]) -> Question:
    """The question that several equal ones are; a free one takes the answers of all."""
    ordered = sorted(group, key=lambda question: question.name)
    if ordered[0].options:
        return ordered[0]
    answers: dict[str, str] = {}
    for answer in (answer for question in ordered for answer in question.answers):
        answers.setdefault(normalised(answer), answer)
    return replace(ordered[0], answers=tuple(answers.values()))


def _check_sides(found: list[Question], spec: QuestionSpec) -> None:
    apart = sum(question.heldout for question in found)
    names = ", ".join(source.provenance["source"] for source in spec.sources)
    if not apart:
        raise DataError(
            f"{names}: none of the {len(found)} questions is held out at heldout={spec.heldout}; give more questions, "
            "a larger share, or held-out questions of their own"
        )
    if apart == len(found):
        mend = "take them out of the held-out questions" if spec.heldout_sources else "lower it or give more questions"
        share = "" if spec.heldout_sources else f" at heldout={spec.heldout}"
        raise DataError(f"{names}: all {apart} questions are held out{share}, none is left to learn from; {mend}")


def _read(sources: tuple[Opened, ...]) -> list[Question]:
    return [_question(record, place) for record, place in records.read(sources, "question")] if sources else []


def _question(record: dict[str, Any], place: str) -> Question:
    answers = _texts(record, "answer", 1, place)
    options = _texts(record, "choices", 2, place) if "choices" in record else ()
    if options and answers[0] not in options:
        raise DataError(
            f"{place}: the answer {answers[0]!r} is none of the choices {', '.join(map(repr, options[:8]))}; give its "
            "text as it stands there, no letter or number of it"
        )
    subject = _text(record.get("subject", ""), "subject", place)
    return Question(text=record["question"].strip(), answers=answers, options=options, subject=subject)


def _texts(record: dict[str, Any], field: str, least: int, place: str) -> tuple[str, ...]:
    """The field's texts, each once."""
    values = record[field]
    if not isinstance(values, list):
        raise DataError(f"{place}: '{field}' must be a list of texts, found {type(values).__name__}")
    texts = tuple(dict.fromkeys(_text(value, field, place) for value in values))
    if len(texts) < least or not all(texts):
        raise DataError(
            f"{place}: '{field}' must hold {least} different texts or more and no empty one, found "
            f"{', '.join(map(repr, texts)) or 'none'}; leave the record out or fill it"
        )
    return texts


def _text(value: Any, field: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{place}: '{field}' must be text or a number, found {type(value).__name__}")
    return str(value).strip()
