"""Telling MLflow: at once, or later where it does not answer. A dead server never stops a stream.

Every method of the ledger looks before it writes, so a letter may be told twice and stands in MLflow once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tenacity

from clray.errors import StorageError, TrackingError
from clray.lineage import lease
from clray.lineage.ledger import Ledger, default_tracking, redact
from clray.lineage.spool import Letter, Spool
from clray.lineage.store import Store

PAUSE_SECONDS = 30.0
"""A server that did not answer is left alone so long, and letters are kept meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How many letters MLflow was told; how many still wait, and why; `away` where it stopped answering."""

    delivered: int = 0
    waiting: int = 0
    reasons: list[str] = field(default_factory=list)
    away: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Courier:
    """Tells one stream's ledger what happens, in order; while MLflow does not answer, the spool keeps it."""

    def __init__(self, ledger: Ledger, store: Store, say: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._spool = Spool(store)
        self._say = say
        self._away_until = 0.0
        self._behind = bool(self._spool.names(ledger.stream))

    def send(self, letter: Letter, now: bool = False) -> str | None:
        """What the ledger answers: the registered version, or the run's id. None where the letter waits.

        Asks again a server that was away only after a pause, or `now`. StorageError where the experiment or its run
        is gone, and where MLflow refuses the stream before anything is trained.
        """
        if time.monotonic() < self._away_until and not now:
            self._spool.put(letter)
            return None
        try:
            if self._behind:
                self._catch_up(letter)
            return tell(self._ledger, self._spool.store, letter)
        except TrackingError as error:
            if error.refused and letter.call == "open":
                raise
            self._leave(error)
            self._spool.put(letter)
            return None

    def close(self) -> None:
        """Says what still waits, and how it is delivered."""
        left = len(self._spool.names(self._ledger.stream))
        if left:
            self._say(
                f"{left} records wait in {self._spool.place} for MLflow. The next run of the stream delivers them, or: "
                f"clray deliver --storage {self._spool.store.root}"
            )

    def _catch_up(self, letter: Letter) -> None:
        """Delivers what waits first. TrackingError where that fails."""
        self._ledger.check()
        found = deliver_stream(self._ledger, self._spool, self._say, letter.tracking)
        if found.away:
            raise TrackingError(found.reasons[-1], found.reasons[-1])
        self._behind = False
        for reason in found.reasons:
            self._say(f"MLflow refuses {reason}")
        if found.delivered:
            self._say(f"MLflow answers again: {found.delivered} records delivered that had waited")

    def _leave(self, error: TrackingError) -> None:
        if not self._behind or not self._away_until:
            self._say(
                f"MLflow at '{redact(self._ledger.tracking_uri)}' cannot be used: {error.reason}. The stream goes on; "
                f"its records wait in {self._spool.place}"
            )
        self._behind, self._away_until = True, time.monotonic() + PAUSE_SECONDS


def tell(ledger: Ledger, store: Store, letter: Letter) -> str | None:
    """Tells the ledger, some times over where MLflow does not answer; what it answers: a version or a run's id."""
    tries = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(12),
        wait=tenacity.wait_exponential_jitter(initial=0.3, max=4, jitter=0.3),
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, TrackingError) and not error.refused),
        reraise=True,
    )
    return tries(_tell, ledger, store, letter)


def _tell(ledger: Ledger, store: Store, letter: Letter) -> str | None:
    values = letter.values
    if letter.call == "open":
        name = values["resolved"].get("name", letter.stream)
        return ledger.open_stream(letter.digest, name, values["spec"], values["resolved"])
    run = ledger.stream_run(letter.digest)
    if letter.call == "record":
        return _record(ledger, store, run, **values)
    if letter.call == "judge":
        ledger.judge(**values)
    elif letter.call == "score":
        ledger.score(**values)
    elif letter.call == "attach":
        with tempfile.TemporaryDirectory(prefix="clray-report-") as folder:
            for name, text in values["files"].items():
                Path(folder, name).write_text(text, encoding="utf-8")
            ledger.attach(run, folder)
    else:
        ledger.finish(run, values["status"])
    return None


def _record(ledger: Ledger, store: Store, run: str, key: str, spec: str, **line: bool) -> str:
    made = store.generation(key)
    if made is None:
        raise StorageError(f"storage '{store.root}': generations/{key}/generation.json is gone; put it back")
    artifacts = {
        "generation.json": made.to_dict(),
        "receipt.json": made.receipt,
        "environment.json": made.environment,
        "spec.yaml": spec,
    }
    artifacts = {name: value for name, value in artifacts.items() if value}
    weights, curve = store.uri(f"generations/{key}/weights"), store.read_json(f"generations/{key}/curve.json") or []
    return ledger.record(made, run, weights, curve, artifacts, **line)


def deliver_stream(ledger: Ledger, spool: Spool, say: Callable[[str], None], tracking: str | None) -> Delivery:
    """Tells the ledger the stream's letters for `tracking`, and takes each away; one driver at a time.

    Stops where MLflow does not answer; a letter that it refuses stays, and the next one is told.
    """
    delivered, away, reasons = 0, False, []
    doing = f"what waits of stream {ledger.stream} is being delivered"
    with lease.hold(spool.store, f"deliver-{ledger.stream}", ledger.stream, say, doing=doing):
        letters = [(name, letter) for name, letter in spool.letters(ledger.stream) if letter.tracking == tracking]
        for name, letter in letters:
            try:
                tell(ledger, spool.store, letter)
            except StorageError as error:
                reasons.append(f"{name}: {error}")
                away = isinstance(error, TrackingError) and not error.refused
                if away:
                    break
                continue
            spool.drop(name)
            delivered += 1
    return Delivery(delivered=delivered, waiting=len(letters) - delivered, reasons=reasons, away=away)


def deliver(store: Store, say: Callable[[str], None], tracking: str | None = None) -> Delivery:
    """Tells MLflow all that waits in the store: at `tracking`, else where each stream is tracked.

    StorageError where a tracking URI had credentials, which are not kept, and none is given.
    """
    spool, found = Spool(store), []
    for stream in spool.streams():
        for where in dict.fromkeys(letter.tracking for _, letter in spool.letters(stream)):
            if not tracking and where and "***" in where:
                raise StorageError(
                    f"stream '{stream}' is tracked at '{where}', whose credentials are not kept. Give --tracking URI."
                )
            uri = tracking or where or default_tracking(store)
            ledger = Ledger(uri, stream)
            ledger.check()
            found.append(deliver_stream(ledger, spool, say, where))
    return Delivery(
        delivered=sum(each.delivered for each in found),
        waiting=sum(each.waiting for each in found),
        reasons=[reason for each in found for reason in each.reasons],
        away=any(each.away for each in found),
    )
