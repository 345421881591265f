"""Pydantic's findings in one sentence each: file and line, the value, the limit, the mend."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]
CHOICES = frozenset({"adapter", "replay", "regulariser", "schedule", "encoder", "tagger"})
"""Fields whose `kind` says which of several specifications they hold."""


def describe(error: ValidationError, model: type[BaseModel], name: str, lines: Mapping[Path, int]) -> str:
    """All findings, one a line, in the order of the file."""
    items = [item for item in error.errors() if not _follows(item, error)]
    found = {_sentence(item, model, name, lines): _line(_written(item["loc"]), lines) for item in items}
    return "\n".join(sorted(found, key=lambda text: found[text]))


def _sentence(item: Any, model: type[BaseModel], name: str, lines: Mapping[Path, int]) -> str:
    path = _written(item["loc"])
    line = _line(path, lines)
    where = f"{name}:{line}" if line else name
    dotted = ".".join(str(part) for part in path) or f"the {model.__name__.lower()}"
    value = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            known = _known(model, path[:-1])
            near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
            mend = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            return f"{where}: unknown key '{dotted}'; {mend}"
        case "missing":
            return f"{where}: '{dotted}' is missing; it must be given"
        case "union_tag_invalid":
            known = item["ctx"]["expected_tags"].replace("'", "")
            tag = str(item["ctx"]["tag"])
            near = difflib.get_close_matches(tag, known.split(", "), n=1, cutoff=0.5)
            return (
                f"{where}: '{dotted}' has unknown kind '{tag}'; "
                + (f"did you mean '{near[0]}'? " if near else "")
                + f"Known kinds: {known}"
            )
        case "union_tag_not_found":
            return f"{where}: '{dotted}' needs a 'kind'; found {value!r}"
        case "value_error":
            return f"{where}: '{dotted}': {item['ctx']['error']!s}"
        case _:
            message = item["msg"][0].lower() + item["msg"][1:]
            return f"{where}: '{dotted}': {message}; found {value!r}"


def _follows(item: Any, error: ValidationError) -> bool:
    """Whether the finding is only the consequence of one inside the same list."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in error.errors()
    )


def _written(loc: tuple[str | int, ...]) -> Path:
    """The location without what pydantic adds for members of unions: the kind, after a choice, or a type."""
    types = {"str", "tuple[str, ...]", "literal['all-linear']", "constrained-str"}
    return tuple(
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if not (isinstance(part, str) and (before in CHOICES or part in types or part.startswith("function-")))
    )


def _line(path: Path, lines: Mapping[Path, int]) -> int:
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


def _known(model: type[BaseModel], path: Path) -> list[str]:
    """Field names that may stand at `path` below `model`."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            inner
            for outer in models
            if part in outer.model_fields
            for inner in _models(outer.model_fields[part].annotation)
        ]
    return sorted({field for found in models for field in found.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]
