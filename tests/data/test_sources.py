"""Files of a source are found on every node, wherever it unpacked the package of a Ray job."""

import os

import pytest

from clray.data.sources import Unit, find_files, package_folder, read_unit
from texts import write_lines

SOURCE = {"source": "data/*.jsonl", "split": "train", "fields": {}, "instruction": None, "limit": None}


@pytest.fixture
def nodes(tmp_path):
    """The same package as two nodes unpack it, each below a temporary folder of its own."""
    packages = [tmp_path / node / "working_dir_files" / "_ray_pkg_0" for node in ("head", "worker")]
    for package in packages:
        (package / "data").mkdir(parents=True)
        write_lines(package / "data" / "text.jsonl", [{"text": f"on the {package.parent.parent.name}"}])
    return packages


def test_a_file_of_the_package_is_read_from_each_nodes_own_copy(nodes, monkeypatch):
    head, worker = nodes
    monkeypatch.chdir(head)
    monkeypatch.setenv("PYTHONPATH", f"{head}{os.pathsep}/usr/lib/python")
    found = find_files("data/*.jsonl")
    assert [file.uri for file in found] == ["package:data/text.jsonl"]
    monkeypatch.chdir("/")
    monkeypatch.setenv("PYTHONPATH", f"{worker}{os.pathsep}/usr/lib/python")
    assert list(read_unit(Unit(SOURCE, tuple(file.uri for file in found)))) == [
        ({"text": "on the worker"}, "package:data/text.jsonl:1")
    ]


def test_a_path_that_climbs_stays_in_the_package(nodes, monkeypatch):
    (nodes[0] / "jobs").mkdir()
    monkeypatch.chdir(nodes[0] / "jobs")
    monkeypatch.setenv("PYTHONPATH", str(nodes[0]))
    assert [file.uri for file in find_files("../data")] == ["package:data/text.jsonl"]


def test_other_files_keep_their_absolute_path(nodes, tmp_path, monkeypatch):
    shared = write_lines(tmp_path / "shared.jsonl", [{"text": "a"}])
    monkeypatch.setenv("PYTHONPATH", str(nodes[0]))
    assert [file.uri for file in find_files(shared)] == [shared]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert package_folder() is None
    monkeypatch.chdir(nodes[0])
    assert [file.uri for file in find_files("data")] == [str(nodes[0] / "data" / "text.jsonl")]
