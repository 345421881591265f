"""Builtin text: disjoint splits, balanced tasks, one order, and clear complaints."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from clray.data import builtin
from clray.errors import DataError

DOMAINS = ("docs", "docstrings", "code", "unicode")
TASKS = ("keyword", "package", "category")


def test_names_are_the_domains_and_the_tasks():
    assert builtin.names() == [*DOMAINS, *TASKS]


@pytest.mark.parametrize("name", DOMAINS)
def test_domains_are_texts_in_disjoint_splits(name):
    splits = {split: [record["text"] for record in builtin.records(name, split)] for split in builtin.SPLITS}
    texts = [text for split in splits.values() for text in split]
    assert len(set(texts)) == len(texts)
    assert all(text.strip() for text in texts)
    assert len(splits["train"]) > 3 * len(splits["test"]) > 0


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_balanced_in_disjoint_splits(name):
    splits = {split: builtin.records(name, split) for split in builtin.SPLITS}
    inputs = [record["input"] for found in splits.values() for record in found]
    assert len(set(inputs)) == len(inputs)
    assert len(splits["train"]) >= 1000
    assert len(splits["test"]) >= 200
    for found in splits.values():
        counts = Counter(record["output"] for record in found)
        assert len(set(counts.values())) == 1
        assert all(record["choices"] == sorted(counts) and record["instruction"] for record in found)


def test_all_that_is_cut_from_one_origin_falls_into_one_split(monkeypatch):
    """So a task never asks about a function that the training split of `code` holds."""
    pairs = [(str(n), {"text": f"{n} {half}"}) for n in range(200) for half in "ab"]
    monkeypatch.setitem(builtin.MAKERS, "pairs", lambda: iter(pairs))
    splits = [{r["text"].split()[0] for r in builtin.records("pairs", split)} for split in builtin.SPLITS]
    builtin._split_records.cache_clear()
    assert all(splits)
    assert sum(map(len, splits)) == len(set().union(*splits)) == 200


def test_the_first_records_are_a_fair_sample():
    answers = Counter(record["output"] for record in builtin.records("keyword", "train")[:500])
    assert answers == dict.fromkeys(builtin.KEYWORDS, 100)


def test_records_are_the_callers_own():
    builtin.records("docs", "test")[0]["text"] = "changed"
    assert builtin.records("docs", "test")[0]["text"] != "changed"


def test_code_holds_no_docstring_and_still_stands_alone():
    source = textwrap.dedent('''
        class Pen:
            """A pen."""

            @property
            def ink(self):
                """The ink
                that is left."""
                return self._ink

            def dip(self):
                return None
    ''')
    docstrings, functions = [], []
    builtin._collect(ast.parse(source), source.split("\n"), docstrings, functions)
    assert docstrings == ["A pen.", "The ink\nthat is left."]
    assert functions == ["@property\ndef ink(self):\n    return self._ink", "def dip(self):\n    return None"]


@pytest.mark.parametrize(
    ("path", "skipped"),
    [
        ("json/decoder.py", False),
        ("unittest/test/test_case.py", True),
        ("site-packages/numpy/core.py", True),
        ("config-3.11-x86_64-linux-gnu/python-config.py", True),
        ("_sysconfigdata__linux_x86_64-linux-gnu.py", True),
    ],
)
def test_tests_tools_and_tables_are_skipped(path, skipped):
    assert builtin._skipped(Path(path)) is skipped


def test_another_process_gives_the_same_records():
    """String hashing is salted by the process; the records must not depend on it."""
    script = "from clray.data import builtin; print(builtin._hash(repr(builtin.records('keyword', 'test'))))"
    runs = [
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout.strip(), runs[0].stderr
    assert runs[0].stdout == runs[1].stdout


def test_unknown_names_and_splits_name_the_known_ones():
    with pytest.raises(DataError, match=r"builtin:doc'.*docs, docstrings"):
        builtin.records("doc", "train")
    with pytest.raises(DataError, match=r"'validation'.*train, dev, test"):
        builtin.records("docs", "validation")


def test_a_python_without_its_sources_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.sysconfig, "get_path", lambda _: str(tmp_path))
    builtin._modules.cache_clear()
    builtin._split_records.cache_clear()
    try:
        with pytest.raises(DataError, match="no such text"):
            builtin.records("code", "train")
    finally:
        builtin._modules.cache_clear()
        builtin._split_records.cache_clear()
