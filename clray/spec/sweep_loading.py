"""Loads a sweep: YAML file + `key=value` overrides -> a checked `Sweep`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from clray.errors import SpecError
from clray.spec import complaints, loading, yaml_text
from clray.spec.sweep import Sweep


def is_sweep(path: str | Path) -> bool:
    """Whether the file is that of a sweep; False where it cannot be read or parsed."""
    try:
        value, _ = yaml_text.parse(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, SpecError):
        return False
    return isinstance(value, dict) and "space" in value


def load(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """The sweep of the YAML file, with `dotted.key=value` overrides: `search.trials=48`, `stream.seed=1`.

    Where `stream` is the path of a file, that is looked for beside the sweep's. All other paths are relative to the
    working directory. Raises SpecError naming file, line, value, limit and mend.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}. Give the file of a sweep.") from error
    return loads(text, overrides, str(path), path.parent)


def loads(text: str, overrides: Iterable[str] = (), name: str = "sweep", beside: Path = Path()) -> Sweep:
    """The sweep of the YAML text; `name` stands for the file in messages, `beside` is where its stream's file lies."""
    value, lines = yaml_text.parse(text, name)
    if not isinstance(value, dict):
        raise SpecError(f"{name}:1: a sweep is a mapping of keys such as stream, space, objectives; found {value!r}")
    if isinstance(value.get("stream"), str):
        value["stream"] = loading.dump(loading.load(beside / value["stream"]))
    for override in overrides:
        key, found, setting = override.partition("=")
        if not found:
            raise SpecError(f"override '{override}': write key=value, say search.trials=24")
        value = loading.assign(value, key.strip(), yaml_text.parse(setting, f"override '{override}'")[0])
    return validate(value, name, lines)


def validate(value: Mapping[str, Any], name: str = "sweep", lines: Mapping[yaml_text.Path, int] | None = None) -> Sweep:
    """The checked sweep of plain values; SpecError for the first thing that does not fit."""
    try:
        return Sweep.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise SpecError(complaints.describe(error, Sweep, name, lines or {})) from error


def dump(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain values, only what was set."""
    return sweep.model_dump(mode="json", exclude_unset=True)


def to_yaml(sweep: Sweep) -> str:
    """The sweep as YAML text that loads to an equal sweep."""
    return yaml.safe_dump(dump(sweep), sort_keys=False, allow_unicode=True, width=100)
