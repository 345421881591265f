"""The folder `mlflow/` of the repository never stands before the library, and its contract is complete."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow

ROOT = Path(__file__).resolve().parents[1]


def test_no_python_lies_in_the_folder() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_the_library_is_what_is_imported() -> None:
    assert "site-packages" in (mlflow.__file__ or "")
    assert hasattr(mlflow, "MlflowClient")


def test_the_schema_names_every_tag_and_metric_that_is_written() -> None:
    schema = (ROOT / "mlflow" / "SCHEMA.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "clray" / "lineage").glob("*.py"))
    written = set(re.findall(r'"(clray\.[a-z_]+|train/[a-z_]+|mlflow\.[a-zA-Z.]+)"', code))
    written |= set(re.findall(r'f"(clray\.[a-z_]+)', code))
    assert len(written) > 15
    assert not {
        name for name in written - {"mlflow.store.db.utils", "mlflow.system_metrics"} if f"`{name}" not in schema
    }
