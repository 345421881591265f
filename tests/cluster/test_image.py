"""The Dockerfile, instruction by instruction: bases, what is copied, who runs it. No engine is here to build it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec

Instructions = list[tuple[str, str]]


@pytest.fixture(scope="module")
def instructions(texts) -> Instructions:
    """Instructions in order, each with its arguments on one line."""
    lines = [line for line in texts["Dockerfile"].splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(instructions: Instructions, name: str) -> list[str]:
    return [value for word, value in instructions if word == name]


def test_both_bases_are_the_projects_ray_and_python(instructions, pinned, python_version) -> None:
    *bases, final = arguments(instructions, "FROM")
    tag = f"rayproject/ray:{pinned['ray']}-py{python_version.replace('.', '')}"
    assert [re.fullmatch(rf"{re.escape(tag)}-(cpu|cu\d+) AS (cpu|cuda)", base)[2] for base in bases] == ["cpu", "cuda"]
    assert final == "${DEVICE}"
    assert arguments(instructions, "ARG") == ["DEVICE=cpu", "DEVICE", "TORCH_INDEX="]


def test_only_known_instructions(instructions) -> None:
    assert {word for word, _ in instructions} <= {"ARG", "FROM", "USER", "RUN", "WORKDIR", "COPY"}


def test_nobody_runs_as_root(instructions) -> None:
    assert arguments(instructions, "USER") == ["root", "1000"]
    root = instructions.index(("USER", "root"))
    assert instructions[root + 2] == ("USER", "1000"), "one step as root, for the compiler"
    assert all("--chown=1000:" in copied for copied in arguments(instructions, "COPY"))


def test_everything_copied_is_there_and_sent_to_the_builder(instructions, texts, root: Path) -> None:
    ignored = GitIgnoreSpec.from_lines(texts["Dockerfile.dockerignore"].splitlines())
    copied = [shlex.split(line) for line in arguments(instructions, "COPY")]
    sources = {word for words in copied for word in words[1:-1]}
    assert sources == {"pyproject.toml", "constraints.txt", "README.md", "clray", "jobs"}
    for source in sources:
        assert (root / source).exists()
        assert not ignored.match_file(source)
    for left_out in ("tests/conftest.py", "clray-store/mlflow.db", ".venv/bin/python", ".git/config", ".env"):
        assert ignored.match_file(left_out)


def test_everything_is_installed_at_the_tested_versions(instructions, texts) -> None:
    runs = "; ".join(arguments(instructions, "RUN"))
    installs = re.findall(r"pip install [^&;]*", runs)
    assert len(installs) == 3
    for install in installs:
        assert "-c constraints.txt" in install or install.split() == "pip install --no-cache-dir --no-deps .".split()
    assert "g++" in runs and "procps" in runs, "DeepSpeed compiles; the preStop hooks use pkill and pgrep"


def test_the_requirements_are_those_of_the_project(instructions, root: Path, tmp_path: Path) -> None:
    [line] = [value for value in arguments(instructions, "RUN") if "tomllib" in value]
    command = line.partition(" && ")[0].replace("requirements.txt", str(tmp_path / "requirements.txt"))
    python = f"{shlex.quote(sys.executable)} {command.removeprefix('python ')}"
    subprocess.run(["bash", "-c", python], cwd=root, check=True)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted
