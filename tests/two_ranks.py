"""A stage trained by two ranks, in processes of their own, without Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import clray
from clray.train.order import StageOrder


def by_two(order: StageOrder, folder: Path) -> dict[str, Any]:
    """Trains the order in two processes; returns losses and files."""
    (folder / "order.json").write_text(json.dumps(dataclasses.asdict(order)))
    script, result = Path(__file__).parent / "train" / "rank.py", folder / "result.json"
    how = [str(folder / "group"), str(folder / "order.json"), str(result)]
    paths = [str(Path(clray.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DS_ACCELERATOR": "cpu"}
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), "2", *how], env=env) for rank in range(2)]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    return json.loads(result.read_text())
