"""What the files of commands share: `--json`, and an output that holds JSON alone."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from pydantic_core import to_json

Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@contextmanager
def quiet_stdout(wanted: bool) -> Iterator[None]:
    """Sends to standard error what Ray and others print on standard output, so that --json prints JSON alone."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(out, 1)
        os.close(out)


def print_json(value: Any) -> None:
    """Prints the value as readable JSON; what is no number (NaN) is null."""
    typer.echo(to_json(value, indent=1).decode())


@contextmanager
def uncollected() -> Iterator[None]:
    """Without collections of garbage: of the million objects of a long lineage none is dropped, and looking for some is
    a quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
