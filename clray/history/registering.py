"""What MLflow is told of generations that were made elsewhere: at once, or later where it goes away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clray.errors import StorageError, UserError
from clray.lineage import notes
from clray.lineage.delivery import Courier
from clray.lineage.finding import ancestry
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.ledger import Ledger, default_tracking, redact
from clray.lineage.spool import Call, Letter
from clray.lineage.store import Store

NOWHERE, ADOPTED = "none", "adopted"
ABOUT = "Models and adapters that were made elsewhere."


def tracked_at(store: Store, tracking: str | None) -> str | None:
    """The tracking URI to record at: the one given, else where the store's streams are recorded, else the store's own
    SQLite file; None where `tracking` is "none".

    UserError where the streams are recorded at several places, StorageError where the URI had credentials, which are
    not kept.
    """
    if tracking:
        return None if tracking == NOWHERE else tracking
    known = notes.tracked_at(store)
    if len(known) > 1:
        names = ", ".join(where or "the storage's own file" for where in known)
        raise UserError(f"the streams of storage '{store.root}' are tracked at {names}; say which with --tracking URI")
    found = (known[0] if known else None) or default_tracking(store)
    if "***" in found:
        raise StorageError(
            f"the streams of storage '{store.root}' are tracked at '{found}', whose credentials are not kept. Give "
            "--tracking URI, or --tracking none to do without MLflow."
        )
    return found


def check(uri: str | None, stream: str) -> None:
    """Raises StorageError within seconds where MLflow cannot be used."""
    if uri is not None:
        Ledger(uri, stream).check()


def register(store: Store, uri: str | None, stream: str, made: Generation, say: Callable[[str], None]) -> None:
    """Records the generation, and all before it that the stream does not hold, in MLflow once.

    Where MLflow does not answer, the records wait in the storage, which `say` is told.
    """
    if uri is None:
        return
    courier = Courier(Ledger(uri, stream), store, say)
    mark, spec = digest([ADOPTED, stream]), f"name: {stream}\n"
    tracking = None if store.local and uri == default_tracking(store) else redact(uri)

    def send(call: Call, **values: Any) -> None:
        courier.send(Letter(call=call, stream=stream, digest=mark, tracking=tracking, values=values), call == "finish")

    send("open", spec=spec, resolved={"name": ADOPTED, "description": ABOUT})
    notes.keep(store, stream, spec, tracking)
    for each in ancestry(store, made):
        send("record", key=each.key, spec="", latest=False)
    send("finish", status="FINISHED")
    courier.close()
