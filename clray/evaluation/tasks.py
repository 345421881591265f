"""A task's examples: read on Ray Data, encoded once, kept under their content address."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from clray.data import formatting, preferences, records
from clray.data.sources import Opened
from clray.errors import DataError
from clray.evaluation import grades, suites
from clray.evaluation.choice import ChoiceExample
from clray.evaluation.generate import GenerateExample
from clray.evaluation.perplexity import Document
from clray.evaluation.suite_scoring import SuiteExample
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.endpoint import identity
from clray.spec.format import Format
from clray.spec.task import Task

VERSION = 1
EXAMPLES = {
    "choice": ChoiceExample,
    "generate": GenerateExample,
    "perplexity": Document,
    "preference": ChoiceExample,
    "suite": SuiteExample,
}
KINDS = {"perplexity": "pretrain", "preference": "align"}
"""Kind of record that a scorer reads, where that is not an instruction."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task as it is measured; its digest is the column's address in the scores. `suite` is the mark of what a suite
    of lm-evaluation-harness asks."""

    task: Task
    sources: tuple[Opened, ...]
    tokenizer: str
    tokenizer_digest: str
    form: Format
    context: int
    precision: str
    suite: str = ""

    @property
    def digest(self) -> str:
        """Everything that changes a score of this task, and nothing else."""
        task = self.task
        shape: list[Any] = [self.form.model_dump(mode="json")] if task.scorer not in ("perplexity", "suite") else []
        shape += [task.options] if task.scorer == "choice" else []
        shape += [task.max_new_tokens] if task.scorer == "generate" else []
        shape += [{"pattern": task.pattern}] if task.pattern is not None else []
        shape += [{"refusals": task.refusal_phrases}] if task.refusal_phrases else []
        shape += [task.normalise] if task.scorer == "preference" else []
        shape += [{"judge": identity(task.judge.model_dump())}] if task.judge else []
        shape += [{"suite": self.suite}] if task.scorer == "suite" else []
        return digest(
            [
                VERSION,
                task.scorer,
                [s.digest for s in self.sources],
                self.tokenizer_digest,
                self.context,
                self.precision,
                task.limit,
                shape,
            ]
        )


def prepare(spec: TaskSpec, store: Store) -> int:
    """Number of the task's examples, which are then in the store. DataError where one cannot be measured."""
    place = f"tasks/{spec.digest}/examples.json"
    if not store.exists(place):
        examples = _suite(spec) if spec.task.scorer == "suite" else _encode(spec)
        if not examples:
            raise DataError(
                f"task '{spec.task.name}': no example can be measured; all are longer than {spec.context} tokens"
            )
        store.write_json(place, [dataclasses.asdict(example) for example in examples])
    count = len(load(store, spec.digest, spec.task.scorer))
    if spec.task.judge:
        grades.check(spec.task.judge.model_dump(), count, f"task '{spec.task.name}'")
    return count


def graded(spec: TaskSpec, results: list[dict[str, Any]], store: Store) -> list[dict[str, Any]]:
    """The results of all examples with the word of the task's judge: "judge", 1.0 where the answer is right."""
    assert spec.task.judge is not None, "the task has a judge"
    tokenizer, examples = records.tokenizer(spec.tokenizer), load(store, spec.digest, spec.task.scorer)
    answers = [
        grades.Answer(
            tokenizer.decode(example.prompt_ids, skip_special_tokens=True), example.references, one["prediction"]
        )
        for example, one in zip(examples, results, strict=True)
    ]
    right = grades.grades(answers, spec.task.judge.model_dump(), store)
    return [{**one, "judge": float(grade)} for one, grade in zip(results, right, strict=True)]


@functools.lru_cache(maxsize=64)
def load(store: Store, task_digest: str, scorer: str) -> list[Any]:
    """The encoded examples of a prepared task, in order; read once a process."""
    plain = store.read_json(f"tasks/{task_digest}/examples.json")
    return [EXAMPLES[scorer](**{k: _frozen(v) for k, v in item.items()}) for item in plain]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _suite(spec: TaskSpec) -> list[SuiteExample]:
    try:
        return suites.examples(spec.task, records.tokenizer(spec.tokenizer), spec.context)
    except DataError as error:
        raise DataError(f"task '{spec.task.name}': suite '{spec.task.suite}': {error}") from error


def _encode(spec: TaskSpec) -> list[Any]:
    found = records.read(spec.sources, KINDS.get(spec.task.scorer, "instruct"))[: spec.task.limit]
    tokenizer = records.tokenizer(spec.tokenizer)
    made: list[Any]
    match spec.task.scorer:
        case "perplexity":
            made = [_document(tokenizer, record["text"]) for record, _ in found]
        case "generate":
            made = [_generate(spec, tokenizer, record, place) for record, place in found]
        case "preference":
            made = [_preference(spec, tokenizer, record, place) for record, place in found]
        case _:
            shared = spec.task.options or _all_outputs(found)
            made = [_choice(spec, tokenizer, record, place, shared) for record, place in found]
    return [example for example in made if example is not None]


def _document(tokenizer: Any, text: str) -> Document:
    ids = [formatting.start_token(tokenizer), *formatting.text_ids(tokenizer, text)]
    return Document(ids=tuple(ids), num_bytes=len(text.encode()))


def _references(record: dict[str, Any]) -> tuple[str, ...]:
    if "messages" in record:
        return (record["messages"][-1]["content"],)
    output = record["output"]
    return tuple(map(str, output)) if isinstance(output, list) else (str(output),)


def _generate(spec: TaskSpec, tokenizer: Any, record: dict[str, Any], place: str) -> GenerateExample | None:
    prompt = formatting.encode_prompt(tokenizer, record, spec.form)
    fitted = formatting.fit_prompt(prompt, spec.task.max_new_tokens, spec.context, spec.form, place)
    return None if fitted is None else GenerateExample(prompt_ids=tuple(fitted), references=_references(record))


def _choice(
    spec: TaskSpec, tokenizer: Any, record: dict[str, Any], place: str, shared: tuple[str, ...]
) -> ChoiceExample | None:
    options = tuple(record.get("choices") or shared)
    gold = _references(record)[0]
    if gold not in options:
        raise DataError(f"{place}: the answer {gold!r} is none of the options {', '.join(map(repr, options[:8]))}")
    answers = [formatting.encode_answer(tokenizer, option, spec.form) for option in options]
    prompt = formatting.encode_prompt(tokenizer, record, spec.form)
    fitted = formatting.fit_prompt(prompt, max(map(len, answers)), spec.context, spec.form, place)
    if fitted is None:
        return None
    return ChoiceExample(prompt_ids=tuple(fitted), options=tuple(map(tuple, answers)), gold=options.index(gold))


def _preference(spec: TaskSpec, tokenizer: Any, record: dict[str, Any], place: str) -> ChoiceExample | None:
    """The rejected answer is the first option, so that of equals it is the one that counts as preferred."""
    prompt, chosen, rejected = preferences.parts(tokenizer, record, spec.form, place)
    fitted = formatting.fit_prompt(prompt, max(len(chosen), len(rejected)), spec.context, spec.form, place)
    if fitted is None:
        return None
    return ChoiceExample(prompt_ids=tuple(fitted), options=(tuple(rejected), tuple(chosen)), gold=1)


def _all_outputs(found: list[tuple[dict[str, Any], str]]) -> tuple[str, ...]:
    return tuple(sorted({_references(record)[0] for record, _ in found if "choices" not in record}))
