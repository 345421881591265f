"""Tables that tests make of what they measured, kept in RELIABILITY.md between marks."""

from __future__ import annotations

import os
import re
from pathlib import Path

VARIABLE = "CLRAY_RELIABILITY"


def keep(name: str, heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Puts the table at its mark in the file named by CLRAY_RELIABILITY; without the variable it does nothing."""
    path = os.environ.get(VARIABLE)
    if not path or not rows:
        return
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    text = Path(path).read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    found = re.search(f"{begin}\n.*?{end}", text, re.DOTALL)
    assert found, f"{path} has no place for the table '{name}'"
    made = "\n".join([begin, *lines, end])
    Path(path).write_text(text.replace(found.group(), made), encoding="utf-8")
