"""What a job gets with `--working-dir .`: the code and the streams, by Ray's own packaging."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

LEFT_OUT = [
    "clray-store/generations/0123/weights/model.safetensors",
    "weekly-store/scores/0123/law.json",
    "elsewhere/generations/0123/generation.json",
    "mlruns/0/meta.yaml",
    "mlartifacts/quickstart/spec.yaml",
    "outputs/report.html",
    "mlflow.db",
    "deep/down/mlflow.db-wal",
    ".venv/lib/python3.11/site-packages/ray/__init__.py",
    "clray/__pycache__/cli.cpython-311.pyc",
    ".pytest_cache/README.md",
    ".mypy_cache/3.11/clray.json",
    ".ruff_cache/CACHEDIR.TAG",
    ".hypothesis/examples/x",
    "clray.egg-info/PKG-INFO",
    "build/lib/clray/cli.py",
    "tests/data/big.jsonl",
    ".git/config",
    ".env",
    "object-store.env",
    "key.pem",
]
SHIPPED = [
    "clray/__init__.py",
    "clray/data/sources.py",
    "clray/spec/template.yaml",
    "clray/report/style.css",
    "jobs/quickstart.yaml",
    "stream.yaml",
    "data/tickets.jsonl",
    "pyproject.toml",
]


def shipped(folder: Path, archive: Path) -> set[str]:
    """Files that Ray puts into the package of a working directory, without help from .gitignore."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), archive, include_gitignore=False, excludes=get_runtime_env_default_excludes())
    return {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}


def test_a_job_gets_code_and_streams_and_nothing_else(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in [*LEFT_OUT, *SHIPPED]:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    shutil.copy(root / ".rayignore", folder)
    assert shipped(folder, tmp_path / "package.zip") == {*SHIPPED, ".rayignore"}


def test_this_checkout_ships_all_of_clray_and_stays_small(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    names = shipped(root, archive)
    code = {str(file.relative_to(root)) for file in (root / "clray").rglob("*") if file.is_file()}
    assert {name for name in code if "__pycache__" not in name} <= names
    assert {str(file.relative_to(root)) for file in (root / "jobs").iterdir()} <= names
    assert not any(name.startswith(("tests/", "cluster/", "mlflow/", "docs/", "benchmarks/")) for name in names)
    assert archive.stat().st_size < 5 << 20
