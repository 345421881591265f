"""The commands in `cluster/` are commands: clray's and Ray's own parsers take them, and shells read them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OPERATOR = re.compile(r"[();<>|&\n]+")
BEFORE = re.compile(r"[A-Za-z_]+=.*|env|exec|srun|timeout|-.*", re.DOTALL)
"""What may stand before a command's name."""
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def words(text: str) -> list[str]:
    """Words and operators of shell text, without comments; a line's end is an operator."""
    plain = re.sub(r"(?m)(^|\s)#.*$", r"\1", re.sub(r"\\\n", " ", text))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    return list(lexer)


def calls(program: str, text: str) -> list[list[str]]:
    """Arguments of every call of the program in shell text, also of those inside quoted text, up to the operator."""
    found: list[list[str]] = []
    inside, first = False, True
    for word in words(text):
        if OPERATOR.fullmatch(word):
            inside, first = False, True
        elif inside:
            found[-1].append(word)
        elif first and word == program:
            inside = True
            found.append([])
        else:
            found += calls(program, word) if " " in word else []
            first = word == "--" or (first and bool(BEFORE.fullmatch(word)))
    return found


@pytest.fixture(scope="module")
def shell(texts) -> dict[str, str]:
    """All shell text of cluster/ by the file it stands in, with what runs inside other commands."""
    found = {path: text for path, text in texts.items() if path.endswith((".sh", ".sbatch"))}
    found["slurm/clray.sbatch"] = re.sub(r"\$\{?SLURM_\w+(:-0\})?", "4", found["slurm/clray.sbatch"])
    found["README.md"] = "".join(BLOCK.findall(texts["README.md"]))
    for path, text in texts.items():
        if path.startswith("launcher/") and path.endswith(".yaml"):
            value = yaml.safe_load(text)
            found[path] = "\n".join(value["head_start_ray_commands"] + value["worker_start_ray_commands"])
        if path == "kuberay/rayjob.yaml":
            found[path] = yaml.safe_load(text)["spec"]["entrypoint"]
    return found


@pytest.fixture(scope="module")
def clray_calls(shell, texts) -> list[tuple[str, list[str]]]:
    """Every call of clray with the file it stands in."""
    found = [(path, call) for path, text in shell.items() for call in calls("clray", text) if call]
    usage = re.findall(r"^#   sbatch \S+ (.*)$", texts["slurm/clray.sbatch"], re.MULTILINE)
    found += [("slurm/clray.sbatch", ["run", *shlex.split(line)]) for line in usage]
    for line in calls("sbatch", shell["README.md"]):
        script = line.index("cluster/slurm/clray.sbatch")
        found.append(("README.md", ["run", *line[script + 1 :]]))
    return found


def test_every_call_of_clray_is_one(clray_calls, root: Path) -> None:
    import typer

    from clray.cli import app
    from clray.spec.loading import load

    commands = typer.main.get_command(app).commands
    seen = set()
    for path, (name, *arguments) in clray_calls:
        parameters = commands[name].make_context(name, list(arguments)).params
        seen.add((path, name))
        stream = str(parameters["stream"])
        if stream.startswith("jobs/"):
            assert (root / stream).is_file()
        overrides = [word for word in parameters["overrides"] if word != "${@:2}"]
        load(root / "jobs" / "quickstart.yaml", overrides)
    assert seen >= {
        ("README.md", "submit"),
        ("README.md", "doctor"),
        ("README.md", "run"),
        ("README.md", "generations"),
        ("kuberay/rayjob.yaml", "run"),
        ("slurm/clray.sbatch", "run"),
    }


def test_every_clray_named_in_a_sentence_is_a_command(texts) -> None:
    import typer

    from clray.cli import app

    commands = typer.main.get_command(app).commands
    named = {name for text in texts.values() for name in re.findall(r"`clray ([a-z]+)", text)}
    assert named and named <= set(commands)


def test_settings_survive_the_way_to_the_job(clray_calls) -> None:
    """Ray joins the words of a job's command again, for a shell on the head."""
    for _, call in clray_calls:
        assert shlex.split(shlex.join(call)) == call


def test_every_call_of_ray_is_one(shell) -> None:
    from ray.scripts.scripts import cli

    def parse(group: Any, name: str, arguments: list[str]) -> str:
        command = group.commands[name]
        if hasattr(command, "commands"):
            return f"{name} {parse(command, arguments[0], arguments[1:])}"
        command.make_context(name, list(arguments))
        return name

    found = {
        (path, parse(cli, name, arguments)) for path, text in shell.items() for name, *arguments in calls("ray", text)
    }
    assert {name for _, name in found} >= {"start", "stop", "up", "down", "exec", "dashboard", "job submit"}
    assert ("slurm/clray.sbatch", "symmetric-run") in found


def test_symmetric_run_takes_its_options(shell) -> None:
    from ray.scripts.scripts import cli
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    [call] = [call for call in calls("ray", shell["slurm/clray.sbatch"]) if call[0] == "symmetric-run"]
    start = curate_and_validate_ray_start_args(call[1 : call.index("--")])
    parameters = cli.commands["start"].make_context("start", start).params
    assert (parameters["num_cpus"], parameters["num_gpus"]) == (4, 4)


def test_the_readmes_blocks_are_clean_shell(texts, shellcheck) -> None:
    blocks = BLOCK.findall(texts["README.md"])
    assert len(blocks) >= 6
    for block in blocks:
        checked = subprocess.run([shellcheck, "--shell=bash", "-"], input=block, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_every_link_and_every_path_of_the_readme_is_there(texts, root: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", texts["README.md"]) if "://" not in link]
    assert len(links) >= 8
    for link in links:
        assert (root / "cluster" / link).exists(), link
    text = "".join(texts.values())
    for path in set(re.findall(r"\b(?:cluster|jobs)/[\w./-]+\.(?:yaml|sh|sbatch|md)\b", text)):
        assert (root / path).is_file(), path
