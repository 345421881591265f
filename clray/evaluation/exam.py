"""An exam: every option of a question scored, an answer written, and several more sampled (CEM, arXiv 2404.08707).

The paper asks questions and collects those answered wrongly; how they are asked and judged is clray's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clray.data import formatting
from clray.data.questions import Question
from clray.errors import DataError
from clray.evaluation.choice import ChoiceExample, score_choices
from clray.evaluation.distractors import Distractors
from clray.evaluation.evolution import Result
from clray.evaluation.generate import write_all
from clray.evaluation.judging import judge
from clray.evaluation.sampling import Sampling
from clray.lineage.key import digest
from clray.spec.endpoint import identity
from clray.spec.format import Format

VERSION = 1
DISTRACTORS = 0
"""Number of the draw of a question's distractors; those of its samples are counted from 1."""


@dataclass(frozen=True, kw_only=True)
class ExamSpec:
    """How the questions of that digest are asked: `samples` answers at `temperature`, of `max_new_tokens`; without
    options of their own with `distractors`; right from a ROUGE-L of `rouge`, or where the `judge`
    says so (a spec.Judge as plain values); all in `limit` tokens."""

    questions: str
    tokenizer: str
    tokenizer_digest: str
    form: Format
    instruction: str
    samples: int
    temperature: float
    max_new_tokens: int
    distractors: int
    rouge: float | None
    limit: int
    precision: str
    seed: int
    judge: dict[str, Any] | None = None

    @property
    def plain(self) -> ExamSpec:
        """The exam without its judge, whose word comes on top of the results."""
        return replace(self, judge=None)

    @property
    def digest(self) -> str:
        """Everything that changes a result, and nothing else."""
        values = {**asdict(self), "form": self.form.model_dump(mode="json")}
        del values["tokenizer"]
        judge = values.pop("judge")
        values |= {"judge": identity(judge)} if judge else {}
        return digest([VERSION, values])

    def path(self, key: str) -> str:
        """Where the results of generation `key` lie in the store, once there are all."""
        return f"exams/{key}/{self.digest}.json"

    def parts(self, key: str) -> str:
        """Folder of those that are there before."""
        return f"exams/{key}/{self.digest}"

    def part(self, key: str, start: int, stop: int) -> str:
        """Where the results of questions start:stop lie until then."""
        return f"{self.parts(key)}/{start}-{stop}.json"


@dataclass(frozen=True)
class Sheet:
    """A question as it is asked: the options that are scored, the prompt of each sample, and the numbers it is drawn
    with."""

    question: Question
    options: tuple[str, ...]
    scored: ChoiceExample
    samples: tuple[tuple[int, ...], ...]
    draws: tuple[tuple[float, ...], ...]


def sheets(
    tokenizer: Any, questions: Sequence[Question], spec: ExamSpec, start: int = 0, stop: int | None = None
) -> list[Sheet]:
    """Questions start:stop of them all as they are asked, without those that the format leaves out for their length.

    The distractors of one are answers of any. All draws depend on seed, question and number alone. DataError where one
    does not fit into the limit, and where none is left of all.
    """
    distractors = Distractors(questions)
    asked = (_sheet(tokenizer, question, spec, distractors) for question in questions[start:stop])
    found = [sheet for sheet in asked if sheet]
    if not found and (start, stop) == (0, None):
        raise DataError(f"none of the {len(questions)} questions fits into {spec.limit} tokens; raise sequence_length")
    return found


def examine(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    spec: ExamSpec,
    batch_tokens: int,
    start: int = 0,
    stop: int | None = None,
) -> list[Result]:
    """The result of each of the questions start:stop, in order; of `questions` they are all answers to choose from.

    The options are scored and the greedy answer is written behind one prompt, in the options' own order; each sample
    has them in another. Nothing depends on batches or shards, but for the rounding of sums.
    """
    asked = sheets(tokenizer, questions, spec, start, stop)
    prompts = [sheet.scored.prompt_ids for sheet in asked]
    again = [prompt for sheet in asked for prompt in sheet.samples]
    sampling = Sampling(spec.temperature, [numbers for sheet in asked for numbers in sheet.draws])
    scores = score_choices(
        model, [sheet.scored for sheet in asked], batch_tokens, pad_id=formatting.padding_token(tokenizer)
    )
    greedy = write_all(model, tokenizer, prompts, spec.max_new_tokens, batch_tokens)
    sampled = write_all(model, tokenizer, again, spec.max_new_tokens, batch_tokens, sampling)
    each = [sampled[first : first + spec.samples] for first in range(0, len(sampled), spec.samples)]
    return [
        judge(sheet.question, sheet.options, score["scores"], written, several, spec.rouge)
        for sheet, score, written, several in zip(asked, scores, greedy, each, strict=True)
    ]


def _sheet(tokenizer: Any, question: Question, spec: ExamSpec, distractors: Distractors) -> Sheet | None:
    options = question.options or distractors.options(question, spec.distractors, _draw(spec, question, DISTRACTORS))
    answers = [formatting.encode_answer(tokenizer, option, spec.form) for option in options]
    room = max(spec.max_new_tokens, *map(len, answers))
    draws = [_draw(spec, question, number) for number in range(1, spec.samples + 1)]
    orders = [question.options, *([question.options[i] for i in d.permutation(len(question.options))] for d in draws)]
    prompts: list[tuple[int, ...]] = []
    for order in orders:
        prompt = formatting.encode_prompt(tokenizer, question.record(spec.instruction, order), spec.form)
        fitted = formatting.fit_prompt(prompt, room, spec.limit, spec.form, f"question {question.text[:60]!r}")
        if fitted is None:
            return None
        prompts.append(tuple(fitted))
    gold = options.index(question.gold)
    scored = ChoiceExample(prompt_ids=prompts[0], options=tuple(map(tuple, answers)), gold=gold)
    numbers = tuple(tuple(draw.random(spec.max_new_tokens).tolist()) for draw in draws)
    return Sheet(question, options, scored, tuple(prompts[1:]), numbers)


def _draw(spec: ExamSpec, question: Question, number: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, int(question.name, 16), number])
