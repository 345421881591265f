"""Text that every Python installation carries, as domains and instruction tasks: nothing is downloaded."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sysconfig
import textwrap
import tokenize
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clray.errors import DataError

Record = dict[str, Any]
# What a record is cut from, and the record: all that is cut from one origin falls into one split.
Item = tuple[str, Record]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SPLITS = {"train": range(0, 80), "dev": range(80, 85), "test": range(85, 100)}
# Tests, tools and tables: not what a library's text looks like, or not part of every installation.
SKIPPED = {"config", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data"}
SKIPPED |= {"test", "tests", "turtledemo", "dist-packages", "site-packages"}
KEYWORDS = ("def", "for", "if", "raise", "return")
PACKAGES = ("asyncio", "email", "tkinter", "unittest", "xml")
CATEGORIES = {
    "Lu": "capital",
    "Ll": "small",
    "Lo": "letter",
    "Mn": "mark",
    "Nd": "digit",
    "Po": "punctuation",
    "Sm": "operator",
    "So": "symbol",
}
DOCUMENT, SNIPPET = 800, 160


@dataclass(frozen=True)
class _Module:
    """A module of the standard library: its top-level name, docstrings, and functions without docstrings."""

    package: str
    docstrings: tuple[str, ...]
    functions: tuple[str, ...]


def names() -> list[str]:
    """The names that `builtin:NAME` may take: domains first, then instruction tasks."""
    return list(MAKERS)


def records(name: str, split: str) -> list[Record]:
    """Records of the split: {"text"} of a domain, {"instruction", "input", "output", "choices"} of a task.

    Splits are disjoint by a hash of what the record was cut from, and tasks hold each answer equally often.
    The order is that of the hash, the answers in turn, so the first n records are a fair sample; one Python
    version always gives the same. Raises DataError where the name or the split is not known, or this Python
    carries no such text.
    """
    if name not in MAKERS:
        raise DataError(f"source 'builtin:{name}' is not known; there are {', '.join(MAKERS)}")
    if split not in SPLITS:
        raise DataError(f"source 'builtin:{name}' has no split '{split}'; it has {', '.join(SPLITS)}")
    found = [dict(record) for record in _split_records(name)[split]]
    if not found:
        raise DataError(
            f"source 'builtin:{name}': no such text in {sysconfig.get_path('stdlib')}; "
            "run a Python that has its standard library as source files"
        )
    return found


@functools.lru_cache(maxsize=2)
def _split_records(name: str) -> dict[str, list[Record]]:
    unique: dict[str, Item] = {}
    for origin, record in sorted(MAKERS[name](), key=lambda item: (_hash(item[0]), _hash(_given(item[1])))):
        unique.setdefault(_given(record), (origin, record))
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for origin, record in sorted(unique.values(), key=lambda item: _hash(_given(item[1]))):
        share = _hash(origin) % 100
        splits[next(split for split, shares in SPLITS.items() if share in shares)].append(record)
    return {split: _balanced(found) for split, found in splits.items()}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _given(record: Record) -> str:
    """What the model sees of the record."""
    return str(record.get("text") or record["input"])


def _balanced(found: list[Record]) -> list[Record]:
    """Each answer in turn, as often as the rarest, with the answers as the choices; a domain as it is."""
    if any("output" not in record for record in found):
        return found
    groups = defaultdict(list)
    for record in found:
        groups[str(record["output"])].append(record)
    choices = sorted(groups)
    rounds = zip(*(groups[choice] for choice in choices), strict=False)
    return [{**record, "choices": choices} for answers in rounds for record in answers]


def _docs() -> Iterator[Item]:
    """The language reference behind `help()`, in pieces of whole paragraphs; its topics overlap in part."""
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:
        return
    seen: set[str] = set()
    for _, topic in sorted(topics.items()):
        paragraphs = [paragraph for paragraph in dict.fromkeys(topic.split("\n\n")) if paragraph.strip()]
        yield from _texts(_joined([paragraph for paragraph in paragraphs if paragraph not in seen]))
        seen.update(paragraphs)


def _joined(paragraphs: list[str]) -> Iterator[str]:
    piece: list[str] = []
    for paragraph in paragraphs:
        if piece and sum(map(len, piece)) + len(paragraph) > DOCUMENT:
            yield "\n\n".join(piece)
            piece = []
        piece.append(paragraph)
    if piece:
        yield "\n\n".join(piece)


def _texts(texts: Iterator[str]) -> Iterator[Item]:
    for text in texts:
        yield text, {"text": text}


def _docstrings() -> Iterator[Item]:
    return _texts(text for module in _modules() for text in module.docstrings if len(text) >= 40)


def _code() -> Iterator[Item]:
    functions = (function for module in _modules() for function in module.functions)
    return _texts(function for function in functions if function.count("\n") > 1)


def _unicode() -> Iterator[Item]:
    """One line a named character: a domain unlike prose and unlike code."""
    lines = (f"{ord(c):04X};{name};{unicodedata.category(c)}" for c, name in _characters())
    return _texts("\n".join(block) for block in zip(*[lines] * 24, strict=False))


def _keyword() -> Iterator[Item]:
    ask = "Which keyword is missing?"
    pattern = re.compile(rf"\s*({'|'.join(KEYWORDS)})\b(.{{4,60}})")
    for module in _modules():
        for function in module.functions:
            for match in filter(None, map(pattern.fullmatch, function.split("\n"))):
                yield function, {"instruction": ask, "input": f"___{match[2]}", "output": match[1]}


def _package() -> Iterator[Item]:
    ask = "Which package is this code from?"
    for module in _modules():
        if module.package in PACKAGES:
            for function in module.functions:
                snippet = function[:SNIPPET].rstrip()
                yield function, {"instruction": ask, "input": snippet, "output": module.package}


def _category() -> Iterator[Item]:
    ask = "What kind of character is this?"
    for character, name in _characters():
        if (kind := CATEGORIES.get(unicodedata.category(character))) and len(name) <= 48:
            yield name, {"instruction": ask, "input": name.lower(), "output": kind}


def _characters() -> Iterator[tuple[str, str]]:
    """The named characters of the first two planes without the ideographs, whose names are but numbers."""
    for character in map(chr, range(0x20000)):
        name = unicodedata.name(character, "")
        if name and not name.startswith(("CJK ", "HANGUL SYLLABLE", "TANGUT ", "KHITAN ", "NUSHU ")):
            yield character, name


@functools.lru_cache(maxsize=1)
def _modules() -> tuple[_Module, ...]:
    """The standard library's modules that have source files, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for path in sorted(root.rglob("*.py")) if not _skipped(file := path.relative_to(root))]
    return tuple(_parsed(root / file, file.parts[0].removesuffix(".py")) for file in files)


def _skipped(file: Path) -> bool:
    folders = {part.partition("-")[0] for part in file.parts} | set(file.parts)
    return bool(folders & SKIPPED) or file.name.startswith("_sysconfigdata")


def _parsed(path: Path, package: str) -> _Module:
    with tokenize.open(path) as stream:
        source = stream.read()
    docstrings: list[str] = []
    functions: list[str] = []
    _collect(ast.parse(source), source.split("\n"), docstrings, functions)
    return _Module(package, tuple(docstrings), tuple(functions))


def _collect(node: ast.Module | Definition, lines: list[str], docstrings: list[str], functions: list[str]) -> None:
    """Adds the docstrings of the node and what it defines, and its functions, which keep what they hold."""
    docstring = ast.get_docstring(node)
    docstrings.extend([docstring] if docstring else [])
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        functions.append(_undocumented(node, lines, docstring is not None))
        return
    for child in node.body:
        if isinstance(child, Definition):
            _collect(child, lines, docstrings, functions)


def _undocumented(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], documented: bool) -> str:
    """The function's source with its decorators and without its docstring."""
    first, stop = node.body[0], node.end_lineno
    cut = (first.lineno - 1, first.end_lineno) if documented else (stop, stop)
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    return textwrap.dedent("\n".join(lines[start : cut[0]] + lines[cut[1] : stop])).strip("\n")


MAKERS: dict[str, Callable[[], Iterator[Item]]] = {
    "docs": _docs,
    "docstrings": _docstrings,
    "code": _code,
    "unicode": _unicode,
    "keyword": _keyword,
    "package": _package,
    "category": _category,
}
