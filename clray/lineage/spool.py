"""What MLflow was not told because it did not answer: kept in the store, in order, until it is delivered.

spool/<stream>/<time>.json    one letter, written whole and deleted when MLflow holds what it says
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clray.lineage.mlflow_store import redact
from clray.lineage.store import Store

FOLDER = "spool"

Call = Literal["open", "record", "judge", "score", "attach", "finish"]


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One thing to tell MLflow of a stream: which method of the ledger, with what.

    `tracking` is the tracking URI without credentials, None for the store's own file; `digest` that of the state of
    the stream, by which its run is found. A generation's record and curve are not in it: they lie in the store.
    """

    call: Call
    stream: str
    digest: str
    tracking: str | None
    values: dict[str, Any]


class Spool:
    """The letters of a store that wait."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._last = 0

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.store.uri(FOLDER)

    def put(self, letter: Letter) -> None:
        """Keeps the letter, without credentials, behind all that this process kept before."""
        self._last = max(time.time_ns(), self._last + 1)
        text = redact(json.dumps(asdict(letter), indent=1, ensure_ascii=False))
        self.store.write_bytes(f"{FOLDER}/{letter.stream}/{self._last:020d}.json", text.encode())

    def streams(self) -> list[str]:
        """The streams that have letters here."""
        return [name for name in self.store.list(FOLDER) if self.names(name)]

    def names(self, stream: str) -> list[str]:
        """Paths of the stream's letters, the oldest first."""
        folder = f"{FOLDER}/{stream}"
        return [f"{folder}/{name}" for name in self.store.list(folder) if name.endswith(".json")]

    def letters(self, stream: str) -> Iterator[tuple[str, Letter]]:
        """Path and letter, the oldest first."""
        for name in self.names(stream):
            found = self.store.read_json(name)
            if found is not None:
                yield name, Letter(**found)

    def drop(self, name: str) -> None:
        """Takes a letter away."""
        self.store.delete(name)
