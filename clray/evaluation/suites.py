"""Standard suites of lm-evaluation-harness as tasks: its examples, prompts and metrics, asked of a generation as clray
loads it.

lm-eval reads a suite and writes its prompts while planning (`examples`), scoring actors respond with clray's own
functions (suite_scoring), and lm-eval's metrics look at the responses in the driver (`graded`).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clray.errors import DataError, UserError
from clray.evaluation import suite_files
from clray.evaluation.suite_scoring import SuiteExample
from clray.lineage.key import digest
from clray.spec.task import LOWER_IS_BETTER, Task

VERSION = 1
FEWSHOT_SEED = 1234
"""lm-eval's own, so that its solved examples are drawn."""
RATIOS = {
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""Metrics that are ratios of sums over examples, with lm-eval's name for how; all others must be means."""


@dataclass(frozen=True)
class Suite:
    """A suite that was read: lm-eval's task, the requests of each document, a digest of all that decides a score, and
    whether Python of lm-eval belongs to it."""

    task: Any
    groups: tuple[tuple[Any, ...], ...]
    mark: str
    code: bool


def mark(task: Task) -> str:
    """Digest of the suite's configuration, its documents, its prompts, and lm-eval's version. DataError where lm-eval
    is not there, or the suite cannot be measured as the task says."""
    try:
        suite = _open(task)
        _check_metric(task, suite.task)
    except DataError as error:
        raise DataError(f"task '{task.name}': {error}") from error
    return suite.mark


def examples(task: Task, tokenizer: Any, context: int) -> list[SuiteExample]:
    """What the suite asks of each document, in token ids; `context` is the most tokens that the model reads at once."""
    from clray.evaluation.suite_requests import encode

    return encode(_open(task).groups, tokenizer, context)


def graded(task: Task, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results with what lm-eval's metrics say of each: "values", by metric the two numbers whose sums' ratio is the
    score (before `outcomes.SHAPES`), and the right answer and the model's in words. A metric of another filter than
    the suite's first is METRIC:FILTER; metrics that are no such ratio are left out."""
    suite = _open(task)
    made, groups = suite.task, [[copy.copy(one) for one in group] for group in suite.groups]
    for group, result in zip(groups, results, strict=True):
        for one, response in zip(group, result["responses"], strict=True):
            one.resps = [tuple(response) if isinstance(response, list) else response]
            one.filtered_resps = {}
    with _confined(suite.code):
        for each in made._filters:
            each.apply([one for group in groups for one in group])
        return [{**_values(made, group), **result} for group, result in zip(groups, results, strict=True)]


def _values(made: Any, group: Sequence[Any]) -> dict[str, Any]:
    values: dict[str, list[float]] = {}
    for number, each in enumerate(made._filters):
        found = made.process_results(group[0].doc, [one.filtered_resps[each.name] for one in group])
        for name, value in found.items():
            if name in _measured(made):
                values[name if number == 0 else f"{name}:{each.name}"] = _pair(name, value)
    texts = [str(one.args[1]).strip() if len(one.args) > 1 else "" for one in group]
    target = made.doc_to_target(group[0].doc)
    gold = texts[target] if isinstance(target, int) and target < len(texts) else str(target)
    if group[0].request_type == "loglikelihood":
        asked = [k for k, one in enumerate(group) if one.args[0]]  # without the prompt: of acc_mutual_info alone
        best = max(asked or range(len(group)), key=lambda k: group[k].resps[0][0])
        return {"values": values, "gold": gold, "prediction": texts[best]}
    return {"values": values, "gold": gold, "prediction": str(group[0].resps[0])}


def _pair(name: str, value: Any) -> list[float]:
    """The example's part of the metric: [1 or 0, 1] of a mean, [nats, words] of a perplexity of words."""
    if name not in RATIOS:
        return [float(value), 1.0]
    log_p, size = value if isinstance(value, tuple) else (value, 1)
    return [-float(log_p) / (math.log(2) if name == "bits_per_byte" else 1.0), float(size)]


def _measured(made: Any) -> list[str]:
    """The suite's metrics that are means over examples, or ratios of sums."""
    from lm_eval.api.registry import get_aggregation

    how = made.aggregation()
    return [name for name in how if how[name] is get_aggregation(RATIOS.get(name, "mean"))]


def _check_metric(task: Task, made: Any) -> None:
    """DataError where the task's metric is none of the suite's, or its direction is not the one that its name has."""
    name, _, filtered = task.score.partition(":")
    filters, known = [each.name for each in made._filters], _measured(made)
    if name not in known:
        other = f" ({', '.join(sorted(set(made.aggregation()) - set(known)))} are no means over examples)"
        raise DataError(
            f"suite '{task.suite}' has no metric '{name}' that clray can compare; it has "
            f"{', '.join(known) or 'none'}{other if set(made.aggregation()) - set(known) else ''}; "
            f"give metric: {known[0] if known else 'of another suite'}"
        )
    if filtered and filtered not in filters[1:]:
        raise DataError(
            f"suite '{task.suite}' has no filter '{filtered}' beside its first ({filters[0]}); "
            f"it has {', '.join(filters[1:]) or 'none'}"
        )
    higher = made.higher_is_better().get(name)
    if higher is not None and bool(higher) == (name in LOWER_IS_BETTER):
        raise DataError(
            f"suite '{task.suite}' says of its metric '{name}' that {'more' if higher else 'less'} is better, and of a "
            f"metric of that name clray takes the contrary; choose another of {', '.join(known)}"
        )


def _open(task: Task) -> Suite:
    folder = "" if task.include is None else _content(task.include)
    return _opened(str(task.suite), task.include, folder, task.num_fewshot, task.limit)


def _content(folder: str) -> str:
    """Digest of the folder's files, so that a file that changes while the process runs is read again."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file())
    return digest([[str(path), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


@functools.lru_cache(maxsize=64)
def _opened(suite: str, include: str | None, content: str, shots: int | None, limit: int | None) -> Suite:
    try:
        import datasets
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise DataError("scorer suite needs lm-evaluation-harness: pip install 'clray[suites]'") from error
    if int(datasets.__version__.split(".")[0]) < 4:
        raise DataError(
            f"scorer suite needs datasets 4 or newer, which runs no code of data sets; found {datasets.__version__}: "
            "pip install 'clray[suites]'"
        )
    path, config = suite_files.own(include, suite) if include else suite_files.shipped(suite)
    suite_files.check(suite, config)
    code = suite_files.has_code(config)
    with _confined(code):
        try:
            made = _made(path, config, owned=include is not None)
            _set_shots(suite, made, shots)
            groups = tuple(_requests(made, limit))
        except UserError:
            raise
        except Exception as error:  # whatever its data, templates and functions raise
            raise DataError(f"suite '{suite}' ({path}) cannot be read: {type(error).__name__}: {error}") from error
    asked = [[[one.args for one in group], group[0].doc] for group in groups]
    identity = [VERSION, version("lm_eval"), suite, _plain(made.config.to_dict()), _plain(asked)]
    return Suite(made, groups, digest(identity), code)


def _made(path: Path, config: dict[str, Any], owned: bool) -> Any:
    """lm-eval's task of the configuration."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    if owned:
        plain = {name: value for name, value in config.items() if name not in ("tag", "group", "task_list")}
        return ConfigurableTask(config=copy.deepcopy(plain))
    [made] = TaskManager(include_defaults=False).load(str(path))["tasks"].values()
    return made


def _set_shots(suite: str, made: Any, shots: int | None) -> None:
    own = made.config.num_fewshot
    if own == 0 and shots:
        raise DataError(f"suite '{suite}' is asked without solved examples; leave num_fewshot {shots} out")
    made.set_config(key="num_fewshot", value=own or 0 if shots is None else shots)
    made.set_fewshot_seed(seed=FEWSHOT_SEED)


def _requests(made: Any, limit: int | None) -> Iterator[tuple[Any, ...]]:
    """The requests of each document, as lm-eval's `build_all_requests` makes them, without chat template."""
    for number, doc in made.doc_iterator(limit=limit):
        context = made.fewshot_context(
            doc, num_fewshot=made.config.num_fewshot, gen_prefix=made.doc_to_prefix(doc), chat_template=None
        )
        found = made.construct_requests(doc=doc, ctx=context, metadata=(made.config.task, number, 1))
        yield tuple(found) if isinstance(found, list) else (found,)


def _plain(value: Any) -> Any:
    """The value as JSON, without addresses in memory or paths: functions by their text, data by what they hold."""

    def text(one: Any) -> str:
        return inspect.getsource(one) if inspect.isfunction(one) else re.sub(r" at 0x[0-9a-f]+", "", repr(one))

    plain = json.loads(json.dumps(value, default=text))
    if isinstance(plain, dict):
        plain.pop("dataset_kwargs", None)
        plain["metadata"] = {k: v for k, v in (plain.get("metadata") or {}).items() if k != "config_source"}
    return plain


@contextmanager
def _confined(code: bool) -> Iterator[None]:
    """A context in which lm-eval's templates run in Jinja's sandbox, its chatter is silent, and (where the suite has
    `code`) no metric is loaded from the Hugging Face hub, which would be foreign code."""
    import datasets.utils as bars
    import lm_eval.utils
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    sandbox = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters |= lm_eval.utils.env.filters
    logger, silent = logging.getLogger("lm_eval"), bars.are_progress_bars_disabled()
    level = logger.level
    with ExitStack() as stack:
        stack.enter_context(_instead(lm_eval.utils, "env", sandbox))
        if code:
            import evaluate

            stack.enter_context(_instead(evaluate, "load", _no_metric))
        logger.setLevel(logging.ERROR)
        bars.disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(level)
            if not silent:
                bars.enable_progress_bars()


@contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _no_metric(name: str, *args: Any, **kwargs: Any) -> Any:
    raise DataError(f"it takes metric '{name}' from the Hugging Face hub, as code, which clray does not run")
