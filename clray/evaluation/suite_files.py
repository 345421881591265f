"""Where the suites of lm-evaluation-harness are described, and which of them may run here.

A suite is a YAML file: of lm-eval itself, or of a folder of the person's own. Files of lm-eval may name Python of
lm-eval (`!function`); in other folders that would be foreign code, which clray does not run.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from clray.errors import DataError

GREEDY = {"until", "do_sample", "temperature", "top_k", "top_p"}
"""Settings of writing that plain greedy decoding fulfils, beside the number of tokens."""
TOKENS = {"max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}

NAMED = re.compile(r"""^['"]?(?:task|group)['"]?: *['"]?([^\s'"#]+)""", re.MULTILINE)


class Function(str):
    """What `!function` names."""


class _Loader(yaml.SafeLoader):
    """Plain YAML, with `!function` as a `Function` that is not looked up."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Function:
    return Function(loader.construct_scalar(node))


_Loader.add_constructor("!function", _function)


def own(folder: str, suite: str) -> tuple[Path, dict[str, Any]]:
    """File and configuration of the suite in a folder of the person's own; DataError where it is not there, or comes
    with Python."""
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"include '{folder}' is no folder; the working directory is {Path.cwd()}")
    found = {}
    for path in sorted(root.rglob("*.yaml")):
        config = _read(path, root)
        if isinstance(name := config.get("task"), str):
            found[name] = (path, config)
    if suite not in found:
        raise DataError(f"suite '{suite}' is not in include '{folder}'{_near(suite, list(found))}")
    path, config = found[suite]
    code = next(_functions(config), None)
    if code is not None:
        raise DataError(
            f"{path}: '!function {code}' is Python of its folder, and clray runs none that did not come with lm-eval; "
            'say it as a template (doc_to_text: "{{question}}"), or prepare the data beforehand'
        )
    return path, _with_files(config, path)


def shipped(suite: str) -> tuple[Path, dict[str, Any]]:
    """File and configuration of a suite of lm-eval; DataError where it has none of that name, or it is a group."""
    import lm_eval.tasks

    names = _named(Path(lm_eval.tasks.__file__).parent)
    if suite not in names:
        raise DataError(f"suite '{suite}' is not one of lm-eval's{_near(suite, list(names))}")
    config = _read(names[suite])
    members = config.get("task")
    if isinstance(members, list):
        some = ", ".join(str(each.get("task") if isinstance(each, dict) else each) for each in members[:4])
        raise DataError(
            f"suite '{suite}' is a group ({some}{', ...' * (len(members) > 4)}); give a task to each of them"
        )
    return names[suite], config


def check(suite: str, config: dict[str, Any]) -> None:
    """DataError where clray does not run a suite of this configuration."""
    from lm_eval.api import metrics  # noqa: F401  registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    why = ""
    writing = config.get("generation_kwargs") or {}
    foreign = sorted(set(writing) - GREEDY - TOKENS)
    metrics_of = [one for one in config.get("metric_list") or () if "process_results" not in config]
    hub = [one["metric"] for one in metrics_of if one.get("hf_evaluate") or one.get("metric") not in METRIC_REGISTRY]
    if "class" in config:
        why = "is a Python class of its own; clray takes suites that are described in YAML"
    elif config.get("unsafe_code"):
        why = "runs the code that the model writes, which clray does not"
    elif config.get("use_prompt"):
        why = "takes its prompt from elsewhere (use_prompt); write it in doc_to_text"
    elif config.get("doc_to_image") or config.get("doc_to_audio"):
        why = "asks about pictures or sound; clray's models read text"
    elif hub:
        why = (
            f"takes metric '{hub[0]}' from the Hugging Face hub, as code; its metrics are {', '.join(METRIC_REGISTRY)}"
        )
    elif writing.get("do_sample") or (writing.get("temperature") or 0) > 0 or config.get("repeats", 1) > 1:
        why = "samples its answers; clray measures greedy decoding, which is the same each time"
    elif foreign:
        why = f"writes with generation_kwargs '{foreign[0]}'; clray decodes greedily, without it"
    if why:
        raise DataError(f"suite '{suite}' {why}")


def _read(path: Path, within: Path | None = None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file with what it includes; `within`: the folder that it may include files of."""
    path = path.resolve()
    if path in seen or (within and not path.is_relative_to(within)):
        raise DataError(
            f"{seen[-1]}: includes {path}, which is {'itself' if path in seen else 'outside of ' + str(within)}"
        )
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a task file: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: a task file holds fields, found {type(config).__name__}")
    merged: dict[str, Any] = {}
    included = config.pop("include", ())
    for name in [included] if isinstance(included, str) else included:
        merged |= _read(path.parent / name, within, (*seen, path))
    return merged | config


def _with_files(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration with paths of data files, which are relative to the file that names them, made absolute."""

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: absolute(each) for name, each in value.items()}
        if isinstance(value, list):
            return [absolute(each) for each in value]
        return value if "://" in str(value) else str(path.parent / str(value))

    options = {**(config.get("dataset_kwargs") or {})}
    options.pop("trust_remote_code", None)
    for name in ("data_files", "data_dir"):
        if name in options:
            options[name] = absolute(options[name])
    return {**config, "dataset_kwargs": options or None}


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _functions(each)


def has_code(config: dict[str, Any]) -> bool:
    """Whether the configuration names Python."""
    return next(_functions(config), None) is not None


@functools.lru_cache(maxsize=1)
def _named(root: Path) -> dict[str, Path]:
    """Name of each suite and group of lm-eval -> its file. There are 14,000 files: parsing them takes ten seconds, and
    looking for their names half a second."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.yaml")):
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, path)
    return found


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(sorted(known)[:8]) or 'none'}"
