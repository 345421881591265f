"""Where the commands print their tables."""

from __future__ import annotations

import sys

from rich.console import Console

UNBOUNDED = 240
"""Columns of what is no terminal: a pipe, a job's log."""
NARROW = 120
"""Columns below which a terminal has no room for a wide table."""


def stdout() -> Console:
    """Standard output; tables take the room they need where no person's terminal bounds it."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console
