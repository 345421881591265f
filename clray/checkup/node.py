"""What a node says of itself. Runs there, as a task of its own that takes no CPU from anyone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clray.lineage.environment import environment
from clray.lineage.store import Store

SECONDS = 180
"""Limit of the subprocess that imports torch and DeepSpeed."""

IMPORTS = """
import json, os, torch
found = {"devices": []}
for index in range(torch.cuda.device_count()):
    about = torch.cuda.get_device_properties(index)
    found["devices"].append({"name": about.name, "bytes": about.total_memory, "bf16": about.major >= 8})
if not found["devices"]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
print(json.dumps(found))
"""


def report(storage: str | None, folder: str, node: str) -> dict[str, Any]:
    """Versions, compilers, devices, free bytes, and whether the driver's file in the storage is seen.

    `folder` is the folder in the storage that the driver made for this examination; the node leaves a file of its
    own there.
    """
    return {
        "environment": environment(),
        "compiler": shutil.which(os.environ.get("CXX", "c++")),
        "ninja": shutil.which("ninja"),
        **_imports(),
        "disk": _free(tempfile.gettempdir()),
        "shared_memory": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        "storage": _meet(Store(storage), folder, node) if storage else None,
    }


def clock() -> float:
    """The node's time, in seconds since 1970."""
    return time.time()


def _imports() -> dict[str, Any]:
    """Devices that torch sees, and the error where torch or DeepSpeed cannot be imported.

    In a process of its own: a task without GPUs is shown none by Ray, and a broken CUDA installation may crash.
    """
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", IMPORTS], env=seen, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"devices": [], "import_error": f"no end after {SECONDS} s"}
    if ended.returncode:
        return {"devices": [], "import_error": (ended.stderr.strip().splitlines() or ["it crashed"])[-1]}
    return {**json.loads(ended.stdout.splitlines()[-1]), "import_error": None}


def _free(folder: str) -> dict[str, Any]:
    return {"folder": folder, "free": shutil.disk_usage(folder).free}


def _meet(store: Store, folder: str, node: str) -> dict[str, Any]:
    """Whether the storage of the node is the driver's, and can be written."""
    try:
        seen = store.exists(f"{folder}/driver")
        if seen:
            store.write_bytes(f"{folder}/{node}", node.encode())
        free = _free(store.root)["free"] if seen and store.local else None
    except OSError as error:
        return {"seen": True, "error": str(error), "free": None}
    return {"seen": seen, "error": None, "free": free}
