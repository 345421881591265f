"""Scoring actors: they measure committed generations, cell by cell, never inside the training group."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clray.evaluation.evolution import Result
from clray.evaluation.exam import ExamSpec
from clray.evaluation.outcomes import aggregate
from clray.evaluation.pseudo import AT_ONCE, PseudoSpec, Sample, record, write_samples
from clray.evaluation.references import ReferenceSpec, commit, score_part
from clray.evaluation.selection import selection
from clray.evaluation.suites import graded as graded_suite
from clray.evaluation.tasks import TaskSpec, graded
from clray.lineage.store import Store
from clray.ray_session import ANYWHERE, find_user_error
from clray.spec.stream import Evaluation, Stream


class Scorer:
    """One scoring actor: keeps the last model in memory and scores slices of a task's examples."""

    def __init__(self, storage: str, evaluation: Evaluation, attention: str, trust: bool, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._store = Store(storage)
        self._evaluation = evaluation
        self._options = (attention, trust)
        self._device = torch.device("cuda" if torch.cuda.is_available() and evaluation.gpus_per_worker else "cpu")
        self._key = ""
        self._model: Any = None

    def score(self, key: str, spec: TaskSpec, start: int, stop: int) -> list[dict[str, Any]]:
        """Results of generation `key` on the task's examples start:stop, in order."""
        from clray.data import formatting
        from clray.data.records import tokenizer_here
        from clray.evaluation import tasks
        from clray.evaluation.checks import checked
        from clray.evaluation.choice import score_choices
        from clray.evaluation.generate import generate_answers
        from clray.evaluation.perplexity import score_documents
        from clray.evaluation.suite_scoring import respond

        model = self._load(key, spec.precision)
        encoder = tokenizer_here(spec.tokenizer, spec.tokenizer_digest, self._store)
        examples = tasks.load(self._store, spec.digest, spec.task.scorer)[start:stop]
        budget = self._evaluation.batch_tokens
        pad = formatting.padding_token(encoder)
        match spec.task.scorer:
            case "choice":
                return score_choices(model, examples, batch_tokens=budget, pad_id=pad)
            case "preference":
                return score_choices(model, examples, budget, pad, normalise=spec.task.normalise)
            case "generate":
                answers = generate_answers(
                    model, encoder, examples, max_new_tokens=spec.task.max_new_tokens, batch_tokens=budget
                )
                return [{**answer, **checked(spec.task, answer["prediction"])} for answer in answers]
            case "suite":
                return respond(model, encoder, examples, spec.context, budget, pad)
            case _:
                return score_documents(
                    model,
                    examples,
                    context=spec.context,
                    stride=spec.context // 2,
                    batch_tokens=budget,
                    pad_id=pad,
                )

    def examine(self, key: str, spec: ExamSpec, start: int, stop: int) -> list[Result]:
        """Results of generation `key` on questions start:stop of the exam, in order; they are then in the store."""
        from clray.data import questions
        from clray.data.records import tokenizer_here
        from clray.evaluation import exam

        model = self._load(key, spec.precision)
        encoder = tokenizer_here(spec.tokenizer, spec.tokenizer_digest, self._store)
        asked = questions.load(self._store, spec.questions)
        results = exam.examine(model, encoder, asked, spec, self._evaluation.batch_tokens, start, stop)
        self._store.write_json(spec.part(key, start, stop), results)
        return results

    def imagine(self, spec: PseudoSpec, chunk: int) -> list[Sample]:
        """Pseudo-samples of chunk number `chunk`."""
        from clray.data.records import tokenizer_here

        model = self._load(spec.generator, spec.precision)
        return write_samples(model, tokenizer_here(spec.tokenizer, spec.tokenizer_digest, self._store), spec, chunk)

    def refer(self, spec: ReferenceSpec, number: int, rows: range) -> dict[str, Any]:
        """Scores and writes part `number` of the log-probabilities of preference pairs; its manifest entry."""
        model = self._load(spec.generation, spec.precision)
        return score_part(model, spec, self._store, number, rows, self._evaluation.batch_tokens)

    def _load(self, key: str, precision: str) -> Any:
        from clray.models.loading import load_model

        if key != self._key:
            self._model = None
            self._model = load_model(self._store, key, precision, *self._options).eval()
            self._model.to(self._device)
            self._key = key
        return self._model


class ScoringPool:
    """The scoring actors of a stream, started once and kept."""

    def __init__(self, stream: Stream) -> None:
        import ray

        evaluation = stream.evaluation
        share = 1 if os.environ.get("RAY_ADDRESS") else max(1, (os.cpu_count() or 1) // evaluation.workers)
        actor = ray.remote(Scorer).options(
            num_cpus=1,
            num_gpus=evaluation.gpus_per_worker,
            max_restarts=2,
            max_task_retries=2,
            scheduling_strategy=ANYWHERE,
        )
        self._shard, root = evaluation.shard_rows, Store(stream.storage).root
        self._actors: list[Any] = [
            actor.remote(
                root, evaluation, stream.model.attention, stream.model.trust_remote_code, evaluation.threads or share
            )
            for _ in range(evaluation.workers)
        ]

    def measure(
        self,
        key: str,
        cells: list[tuple[TaskSpec, int]],
        store: Store,
        watch: Callable[[str, int, int], None],
    ) -> None:
        """Scores the generation on each (task, number of examples), and keeps each cell as it is complete."""
        from ray.util import ActorPool

        shards = [
            (task, start, min(start + self._shard, count))
            for task, count in cells
            for start in range(0, count, self._shard)
        ]
        pool = ActorPool(self._actors)
        answers = pool.map(lambda actor, shard: actor.score.remote(key, *shard), shards)
        results: dict[str, list[dict[str, Any]]] = {task.digest: [] for task, _ in cells}
        sizes = {task.digest: count for task, count in cells}
        with _plain_errors():
            for done, (task, answer) in enumerate(zip((task for task, *_ in shards), answers, strict=True), 1):
                results[task.digest] += answer
                watch(task.task.name, done, len(shards))
                if len(results[task.digest]) == sizes[task.digest]:
                    _keep(store, key, task, results.pop(task.digest))

    def examine(self, key: str, spec: ExamSpec, store: Store, watch: Callable[[int, int], None]) -> list[Result]:
        """Results of the generation on all questions of the exam, taken from the store where they are there. A judge's
        word comes on top of the results without it, so that another judge costs no other exam.

        All questions are checked before the first is asked. What a killed run has asked is not asked again. `watch` is
        told the finished and all shards.
        """
        from ray.util import ActorPool

        from clray.data import questions, records
        from clray.evaluation import exam, grades

        known: list[Result] | None = store.read_json(spec.path(key))
        if known is not None:
            return known
        asked = questions.load(store, spec.questions)
        if spec.judge:
            with_judge = grades.judged(self.examine(key, spec.plain, store, watch), asked, spec.judge, store)
            store.write_json(spec.path(key), with_judge)
            return with_judge
        exam.sheets(records.tokenizer(spec.tokenizer), asked, spec)
        shards = [(at, min(at + self._shard, len(asked))) for at in range(0, len(asked), self._shard)]
        found = {shard: store.read_json(spec.part(key, *shard)) for shard in shards}
        missing = [shard for shard in shards if found[shard] is None]
        answers = ActorPool(self._actors).map(lambda actor, shard: actor.examine.remote(key, spec, *shard), missing)
        with _plain_errors():
            for done, (shard, answer) in enumerate(zip(missing, answers, strict=True), len(shards) - len(missing) + 1):
                found[shard] = answer
                watch(done, len(shards))
        results: list[Result] = [result for shard in shards for result in found[shard]]
        store.write_json(spec.path(key), results)
        store.delete(spec.parts(key))
        return results

    def imagine(self, spec: PseudoSpec, store: Store, most: int) -> None:
        """Has the generator write the pseudo-samples, in at most `most` tries, and keeps them in the store.

        The first that came out well are taken, chunk by chunk, so that the number of actors decides nothing.
        """
        import ray

        from clray.data.records import tokenizer

        samples: list[Sample] = []
        chunks = 0
        while len(samples) < spec.count and chunks * AT_ONCE < most:
            wanted = min(spec.count - len(samples), most - chunks * AT_ONCE)
            actors = self._actors[: -(-wanted // AT_ONCE)]
            with _plain_errors():
                found = ray.get([actor.imagine.remote(spec, chunks + i) for i, actor in enumerate(actors)])
            for some in found:
                if len(samples) < spec.count:
                    samples, chunks = samples + some, chunks + 1
        store.write_json(spec.path, record(spec, samples, chunks * AT_ONCE, tokenizer(spec.tokenizer)))

    def refer(self, spec: ReferenceSpec, store: Store, watch: Callable[[int, int], None]) -> None:
        """Has the generation score the pairs of the mixture, and keeps the log-probabilities in the store."""
        from ray.util import ActorPool

        count = len(spec.shards(store))
        shards = [range(at, min(at + self._shard, count)) for at in range(0, count, self._shard)]
        answers = ActorPool(self._actors).map(
            lambda actor, item: actor.refer.remote(spec, *item), list(enumerate(shards))
        )
        parts = []
        with _plain_errors():
            for part in answers:
                parts.append(part)
                watch(len(parts), len(shards))
        commit(spec, store, parts)

    def release(self) -> None:
        """Ends the actors and gives their CPUs and devices back."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A context out of which a user's error on an actor comes as itself."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise find_user_error(error) or error from None


def _keep(store: Store, key: str, task: TaskSpec, results: list[dict[str, Any]]) -> None:
    """Writes the outputs first and the cell last, so that a cell always has its outputs. The judge of a task has its
    say here, in the driver, which alone has its key, and so have the metrics of a suite, which the driver read."""
    if task.task.judge:
        results = graded(task, results, store)
    if task.task.scorer == "suite":
        results = graded_suite(task.task, results)
    store.write_json(f"outputs/{key}/{task.digest}.json", results)
    store.write_score(
        key,
        task.digest,
        {
            "task": task.task.name,
            "scorer": task.task.scorer,
            "score": task.task.score,
            "metrics": aggregate(task.task.scorer, results),
            **selection(results),
        },
    )
