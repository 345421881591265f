"""Knowledge points that a model names, asked once for each text and kept by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from clray.data.book import Book
from clray.instructions import workers
from clray.instructions.prompt import POINTS
from clray.instructions.tagger import check
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.endpoint import identity
from clray.spec.stream import Evaluation

VERSION = 1
AT_ONCE = 256
"""Texts after which the answers are kept."""


def named(texts: Sequence[str], by: dict[str, Any], most: int, store: Store, evaluation: Evaluation) -> list[list[str]]:
    """At most `most` phrases that the model `by` (of `kept_model`) names for each text, its own order kept."""
    asked = {**by, "most": most, "form": POINTS.name}
    book = Book(
        store,
        f"points/{digest([VERSION, identity(asked)])}",
        pa.string(),
        lambda new: workers.tag(new, asked, store, evaluation),
    )
    for start in range(0, len(texts), AT_ONCE):
        book.of(texts[start : start + AT_ONCE])
    return list(book.of(texts).to_pylist())


def ready(by: dict[str, Any], most: int) -> None:
    """ModelError where an optional package or the endpoint's key is missing."""
    check({**by, "most": most, "form": POINTS.name})
