"""Loads a stream: YAML file + `key=value` overrides -> a checked `Stream`."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from clray.errors import SpecError
from clray.spec import complaints, yaml_text
from clray.spec.stream import Stream


def load(path: str | Path, overrides: Iterable[str] = ()) -> Stream:
    """The stream of the YAML file, with `dotted.key=value` overrides (values are YAML).

    Raises SpecError naming file, line, value, limit and mend. Relative paths of local sources, base model
    and storage stay relative to the working directory, as on a command line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be read: {error.strerror}. Give a stream file; `clray init` writes one."
        ) from error
    return loads(text, overrides, name=str(path))


def loads(text: str, overrides: Iterable[str] = (), name: str = "stream") -> Stream:
    """The stream of the YAML text; `name` stands for the file in messages."""
    value, lines = yaml_text.parse(text, name)
    if not isinstance(value, dict):
        raise SpecError(
            f"{name}:1: a stream is a mapping of keys such as name, model, stages; found {type(value).__name__}"
        )
    for override in overrides:
        key, found, setting = override.partition("=")
        if not found:
            raise SpecError(f"override '{override}': write key=value, say method.replay.share=0.1")
        value = assign(value, key.strip(), yaml_text.parse(setting, f"override '{override}'")[0])
    stream = validate(value, name, lines)
    for control in stream.controls:
        variant(stream, control)
    return stream


def validate(
    value: Mapping[str, Any], name: str = "stream", lines: Mapping[yaml_text.Path, int] | None = None
) -> Stream:
    """The checked stream of plain values; SpecError for the first thing that does not fit."""
    try:
        return Stream.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise SpecError(complaints.describe(error, Stream, name, lines or {})) from error


def assign(value: Mapping[str, Any], key: str, setting: Any) -> dict[str, Any]:
    """A copy of the plain values in which the dotted `key` is `setting`; list items go by index or name."""
    result = copy.deepcopy(dict(value))
    place: Any = result
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        place = _step(place, part, ".".join(parents[: depth + 1]))
    if isinstance(place, list):
        place[_index(place, last, key)] = setting
    else:
        place[last] = setting
    return result


def _step(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    inner = place.setdefault(part, {})
    if not isinstance(inner, dict | list):
        raise SpecError(f"override '{key}': '{part}' holds the single value {inner!r}, so nothing can be set inside it")
    return inner


def _index(place: list[Any], part: str, key: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in place]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(place):
        return int(part)
    raise SpecError(f"override '{key}': no item '{part}'; there are {', '.join(str(n) for n in names)}")


def variant(stream: Stream, control: str) -> Stream:
    """The stream as the named control changes it; the control itself has no further controls."""
    value = dump(stream)
    settings = value.pop("controls")[control]
    for key, setting in settings.items():
        value = assign(value, key, setting)
    return validate(value, f"control '{control}' of stream '{stream.name}'")


def dump(stream: Stream) -> dict[str, Any]:
    """The stream as plain values, only what was set, so that defaults and inheritance stay open."""
    return stream.model_dump(mode="json", exclude_unset=True)


def to_yaml(stream: Stream) -> str:
    """The stream as YAML text that loads to an equal stream."""
    return yaml.safe_dump(dump(stream), sort_keys=False, allow_unicode=True, width=100)


def schema() -> dict[str, Any]:
    """The JSON Schema of stream files, for editors."""
    return Stream.model_json_schema()
