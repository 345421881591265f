"""One small real run that all tests of this room look at, and copies of its storage for those that change it."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import command
import pytest
from watchers import Quiet

from clray import conductor
from clray.history.archive import Archive
from clray.history.garbage import Item, remove
from clray.spec import loading
from texts import write_word_tasks

STREAM = """
name: told
model: {{base: {model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
optimiser: {{learning_rate: 3e-3}}
method: {{replay: {{kind: random, share: 0.25}}}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/text.jsonl, length: {{epochs: 2}}}}
  - {{name: first, kind: instruct, data: {folder}/first.jsonl, method: {{adapter: {{kind: lora, rank: 4}}}}}}
  - {{name: last, kind: instruct, data: {folder}/last.jsonl}}
tasks:
  - {{name: text, scorer: perplexity, data: {folder}/text.jsonl, limit: 10}}
  - {{name: first, scorer: generate, max_new_tokens: 4, data: {folder}/first.jsonl, limit: 10}}
  - {{name: last, scorer: choice, data: {folder}/last.jsonl, limit: 10}}
controls:
  no-replay: {{method.replay: {{kind: none}}}}
"""


@pytest.fixture(scope="session")
def stream_file(tiny_model, tmp_path_factory) -> Path:
    """A stream of a full stage and two that share a LoRA adapter, with a control that parts after the first."""
    folder = tmp_path_factory.mktemp("history")
    write_word_tasks(folder, 60)
    path = folder / "stream.yaml"
    path.write_text(STREAM.format(model=tiny_model, folder=folder))
    return path


@pytest.fixture(scope="session")
def outcome(stream_file, ray_cluster):
    """What the stream ended in."""
    return conductor.run(loading.load(stream_file), Quiet())


@pytest.fixture(scope="session")
def storage(outcome) -> str:
    """The storage folder of the run. It is only read."""
    return outcome.plan.store.root


@pytest.fixture
def copied(storage, tmp_path) -> str:
    """A copy of the storage folder, to be changed."""
    shutil.copytree(storage, tmp_path / "store")
    return str(tmp_path / "store")


@pytest.fixture
def collect(copied):
    """Takes the weights of one generation of the copy away, as gc does."""

    def gone(key):
        archive = Archive(copied, "none")
        [found] = [each for each in archive.entries if each.key == key]
        remove(archive.store, [Item(entry=found, bytes=1, reasons=[])])

    return gone


@pytest.fixture
def keys(outcome) -> list[str]:
    """Keys of the stream's generations: base, text, first, last."""
    return outcome.plan.lines[0].keys


@pytest.fixture
def control(outcome) -> list[str]:
    """Keys of the control's generations; the first two are the stream's."""
    return outcome.plan.lines[1].keys


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What is read of a storage is kept below the temporary folder of the tests."""
    monkeypatch.setenv("CLRAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def clray(capsys):
    """Runs a command: exit code, standard output and standard error."""

    return functools.partial(command.run, capsys)
