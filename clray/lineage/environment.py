"""What a generation was made with: versions and machine, never names, paths or addresses."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("clray", "ray", "torch", "transformers", "peft", "deepspeed", "mlflow", "numpy", "tokenizers", "pyarrow")


def environment() -> dict[str, Any]:
    """Versions of Python and packages, kind of machine, cores."""
    return {
        "python": platform.python_version(),
        "platform": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
