"""YAML text to plain values, remembering the line of every key."""

from __future__ import annotations

import re
from typing import Any

import yaml

from clray.errors import SpecError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, but `3e-4` is a number, as in YAML 1.2, and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def parse(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """The value of the YAML text, and the line (from 1) of each path in it."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        if node is not None:
            _walk(node, (), lines, name)
        return (loader.construct_document(node) if node is not None else None), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(f"{where}: not valid YAML: {error.problem}") from error
    finally:
        loader.dispose()


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], name: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise SpecError(f"{name}:{key.start_mark.line + 1}: key '{key.value}' is given twice; keep one")
            seen.add(key.value)
            lines[(*path, key.value)] = key.start_mark.line + 1
            _walk(value, (*path, key.value), lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, name)
