"""One builder a generation: the right to build it, held by one driver at a time.

On a disk the right is a lock of the operating system (flock, which network disks carry too): it ends with the
process that holds it, however that ends. An object store has no locks. There each driver writes a claim of its
own and renews it; a claim counts while it is younger than TTL_SECONDS by the store's own clock, and of two
that claim at once the one with the smaller name goes first.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from pyarrow import fs

from clray.errors import StorageError
from clray.lineage.store import Store

TTL_SECONDS = 60.0
SETTLE_SECONDS = 2.0
POLL_SECONDS = 0.5


@contextlib.contextmanager
def hold(
    store: Store, key: str, what: str, say: Callable[[str], None], wait: bool = True, doing: str = ""
) -> Iterator[None]:
    """Holds the right to build generation `key` (`what`, for people) while the block runs; or that to do something
    else, which `doing` says.

    Where another driver holds it, says who and waits for its end, or raises StorageError where it is not to `wait`.
    A dead driver's right is free: at once on a disk, after TTL_SECONDS in an object store.
    """
    lease = _Lock(store, key) if store.local else _Claim(store, key)
    told = False
    while not lease.take():
        text = f"{doing or f'{what} (generation {key[:10]}) is being built'} by {_name(lease.holder())}"
        if not wait:
            raise StorageError(f"{text}; wait for its end, or run without --no-wait to do so")
        if not told:
            say(f"{text}; waiting for it")
            told = True
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lease.release()


def builders(store: Store) -> list[str]:
    """Who builds a generation of the store right now, in words. In an object store a claim counts while it is young by
    this machine's clock."""
    names = [name.removesuffix(".json") for name in store.list("leases") if not name.endswith(".lock")]
    holders = (_lock_holder(store, key) if store.local else _claim_holder(store, key) for key in names)
    return [f"generation {key[:10]} by {_name(holder)}" for key, holder in zip(names, holders, strict=True) if holder]


def _lock_holder(store: Store, key: str) -> dict[str, Any] | None:
    """Who holds the lock; None where nobody does, and the note is of one that died."""
    import filelock

    try:
        with filelock.FileLock(store.path(f"leases/{key}.lock"), timeout=0):
            return None
    except filelock.Timeout:
        found: dict[str, Any] | None = store.read_json(f"leases/{key}.json")
        return found


def _claim_holder(store: Store, key: str) -> dict[str, Any] | None:
    young = time.time_ns() - TTL_SECONDS * 1e9
    claims = [
        store.read_json(f"leases/{key}/{i.base_name}") for i in store.files(f"leases/{key}") if i.mtime_ns > young
    ]
    return next((claim for claim in claims if claim), None)


def _me() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _name(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "another driver"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


class _Lock:
    """A lock file of the operating system, with a note of who holds it."""

    def __init__(self, store: Store, key: str) -> None:
        import filelock

        self._store = store
        self._note = f"leases/{key}.json"
        self._path = store.path(f"leases/{key}.lock")
        self._lock = filelock.FileLock(self._path, timeout=0)

    def take(self) -> bool:
        import filelock

        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            return False
        self._store.write_json(self._note, _me())
        return True

    def holder(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._store.read_json(self._note)
        return found

    def release(self) -> None:
        self._store.delete(self._note)
        self._lock.release()


class _Claim:
    """A claim among others in an object store, renewed by a thread while it is held.

    A claim keeps its length: PyArrow asks for an object's size before it reads it, and who reads one that is written
    anew in between would get as many bytes as before.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._folder = f"leases/{key}"
        self._mine = uuid.uuid4().hex[:12]
        self._state = {**_me(), "holding": 0}
        self._holder: dict[str, Any] | None = None
        self._done = threading.Event()

    def take(self) -> bool:
        self._write()
        time.sleep(SETTLE_SECONDS)
        self._write()
        others = self._others()
        before = [claim for name, claim in others if claim["holding"] or name < self._mine]
        if before:
            self._holder = before[0]
            self._store.delete(self._file(self._mine))
            return False
        self._state["holding"] = 1
        self._write()
        threading.Thread(target=self._renew, name="clray-lease", daemon=True).start()
        return True

    def holder(self) -> dict[str, Any] | None:
        return self._holder

    def release(self) -> None:
        self._done.set()
        self._store.delete(self._file(self._mine))

    def _file(self, name: str) -> str:
        return f"{self._folder}/{name}.json"

    def _write(self) -> None:
        self._store.write_json(self._file(self._mine), self._state)

    def _renew(self) -> None:
        while not self._done.wait(TTL_SECONDS / 4):
            self._write()

    def _others(self) -> list[tuple[str, dict[str, Any]]]:
        """Claims of others that are alive: younger than TTL_SECONDS beside mine, which was written just now."""
        selector = fs.FileSelector(self._store.path(self._folder), allow_not_found=True)
        infos = {info.base_name.removesuffix(".json"): info for info in self._store.fs.get_file_info(selector)}
        now = infos[self._mine].mtime_ns
        alive = sorted(n for n, i in infos.items() if n != self._mine and now - i.mtime_ns < TTL_SECONDS * 1e9)
        claims = ((name, self._store.read_json(self._file(name))) for name in alive)
        return [(name, claim) for name, claim in claims if claim]
