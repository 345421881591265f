"""clray keeps large language models current: a stream of stages in, recorded generations out.

stream = clray.load("stream.yaml", ["seed=1"])
clray.plan(stream).show()
outcome = clray.run(stream)
model, tokenizer = clray.model(stream.storage, outcome.line.generations[-1])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clray.api import evaluate, generations, model, plan, run, sweep
    from clray.checkup.doctor import doctor
    from clray.errors import UserError
    from clray.exporting import export
    from clray.lineage.generation import Generation
    from clray.spec.loading import load
    from clray.spec.stream import Stream
    from clray.spec.sweep_loading import load as load_sweep
    from clray.submission.job import submit

_HOMES = {
    "load": "clray.spec.loading",
    "Stream": "clray.spec.stream",
    "load_sweep": "clray.spec.sweep_loading",
    "UserError": "clray.errors",
    "Generation": "clray.lineage.generation",
    "plan": "clray.api",
    "run": "clray.api",
    "sweep": "clray.api",
    "evaluate": "clray.api",
    "generations": "clray.api",
    "model": "clray.api",
    "export": "clray.exporting",
    "submit": "clray.submission.job",
    "doctor": "clray.checkup.doctor",
}
__all__ = [
    "Generation",
    "Stream",
    "UserError",
    "doctor",
    "evaluate",
    "export",
    "generations",
    "load",
    "load_sweep",
    "model",
    "plan",
    "run",
    "submit",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """The public names, loaded on first use, so that `import clray` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clray' has no attribute '{name}'; there are {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
