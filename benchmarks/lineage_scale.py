"""What `clray log` and `clray report` take in a storage of 10,000 generations, recorded in SQLite and in PostgreSQL.

    clray run STREAM.yaml
    python benchmarks/lineage_scale.py STREAM.yaml --generations 10000

The storage of the run is copied, and its last generation is copied 10,000 times with keys of their own: records,
scores, and all rows that MLflow's database holds of its run and of its registered version, a long line with a branch
after every fiftieth. Each command has a process of its own, in which it runs five times: once on the storage before it
was filled, which is start-up; once on the filled one with nothing known of it; then again, the least of three.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.store.model_registry.dbmodels import models as registry
from mlflow.store.tracking.dbmodels import models as tracking

from clray import conductor
from clray.lineage.finding import by_key
from clray.lineage.store import Store
from clray.spec import loading

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import contextlib, io, json, sys, time
from clray import cli

took = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["clray", *command]
    before = time.process_time(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code
    took.append([time.process_time() - before[0], time.monotonic() - before[1]])
print(json.dumps(took))
"""
OF_RUN = (tracking.SqlRun, tracking.SqlTag, tracking.SqlParam, tracking.SqlMetric, tracking.SqlLatestMetric)
OF_VERSION = (registry.SqlModelVersion, registry.SqlModelVersionTag)


class Silent:
    """Looks on while what is there is recorded."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def training(self, *_: Any) -> None:
        """Says nothing."""

    def measuring(self, *_: Any) -> None:
        """Says nothing."""


def main() -> None:
    """Prints a row for each database and command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream", type=Path, help="the stream's file, which was run")
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    asked = parser.parse_args()
    print("| database | command | start-up: CPU s, s | first: CPU s, s | again: CPU s, s |\n|---|---|---|---|---|")
    for database in asked.databases:
        with tempfile.TemporaryDirectory(prefix="clray-scale-", dir="/tmp") as name:
            Path(name).chmod(0o711)
            os.environ["CLRAY_CACHE"] = f"{name}/cache"
            measure(Path(name), asked.stream, database, asked.generations)


def measure(folder: Path, file: Path, database: str, count: int) -> None:
    """Prints the rows of one database."""
    shutil.copytree(
        Store(loading.load(file).storage).root, folder / "store", ignore=shutil.ignore_patterns("mlflow.db")
    )
    with tracked(folder, database) as (uri, rows):
        settings = [f"storage={folder}/store", f"tracking={uri}"]
        conductor.run(loading.load(file, settings), Silent())
        shutil.copytree(folder / "store", folder / "small")
        fill(Store(f"{folder}/store"), loading.load(file, settings), rows, count)
        time.sleep(3)
        report(folder, file, database, uri)


def report(folder: Path, file: Path, database: str, uri: str) -> None:
    """Prints the rows of one database, whose storages `small` and `store` lie in the folder."""

    def commands(storage: str) -> dict[str, list[str]]:
        at = ["--storage", f"{folder}/{storage}", "--tracking", uri]
        of = [str(file), f"storage={folder}/{storage}", f"tracking={uri}", "--out", f"{folder}/report.html"]
        return {"log": ["log", *at], "log --json": ["log", *at, "--json"], "report": ["report", *of]}

    small, large = commands("small"), commands("store")
    for name in small:
        shutil.rmtree(folder / "cache" / "lineage", ignore_errors=True)
        start, first, *again = timed([small[name], *[large[name]] * 4])
        least = (min(cpu for cpu, _ in again), min(wall for _, wall in again))
        cells = " | ".join(f"{cpu:.2f}, {wall:.2f}" for cpu, wall in (start, first, least))
        print(f"| {database} | `clray {name}` | {cells} |", flush=True)


@contextmanager
def tracked(folder: Path, database: str) -> Iterator[tuple[str, str]]:
    """Tracking URI, and URI of the database behind it."""
    if database == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        command = [str(ROOT / "mlflow" / "serve-postgres.sh"), str(folder / "served"), str(port)]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "PATH": path}
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        found = re.search(r"^PostgreSQL: (\S+)", (folder / "log").read_text(), re.M)
        assert found
        yield f"http://127.0.0.1:{port}", found[1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def wait_for(address: str) -> None:
    """Returns when the server answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{address} does not answer")


def fill(store: Store, stream: Any, uri: str, count: int) -> None:
    """Copies the stream's last generation so many times, in the storage and in the database."""
    last = by_key(store, conductor.look(stream).line.generations[-1].key)
    scores = [(name, store.read_json(f"scores/{last.key}/{name}")) for name in store.list(f"scores/{last.key}")]
    keys = [f"{1 + number:032x}" for number in range(count)]
    for number, key in enumerate(keys):
        parent = keys[number - (7 if number % 50 == 8 else 1)] if number else last.key
        store.commit(replace(last, key=key, parent=parent, index=last.index + 1 + number, files={}))
        for name, score in scores:
            store.write_json(f"scores/{key}/{name}", score)
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        tags = registry.SqlModelVersionTag.__table__
        found = connection.execute(
            sqlalchemy.select(tags.c.version).where(tags.c.key == "clray.key", tags.c.value == last.key)
        )
        version = found.scalar_one()
        of_runs = registry.SqlModelVersion.__table__
        run = connection.execute(sqlalchemy.select(of_runs.c.run_id).where(of_runs.c.version == version)).scalar_one()
        for model in OF_RUN:
            copy(connection, model, "run_uuid", run, [{"run_uuid": key} for key in keys], last.key, keys)
        places = [{"version": 1000 + number} for number in range(count)]
        for model in OF_VERSION:
            copy(connection, model, "version", version, places, last.key, keys)
    engine.dispose()


def copy(
    connection: Any, model: Any, column: str, value: Any, places: list[dict[str, Any]], key: str, keys: list[str]
) -> None:
    """Copies the rows of the table with that value to each of the places, under the keys."""
    table = model.__table__
    rows = [
        dict(row) for row in connection.execute(sqlalchemy.select(table).where(table.c[column] == value)).mappings()
    ]
    made = []
    for place, new in zip(places, keys, strict=True):
        for row in rows:
            named = {"value": new} if row.get("key") == "clray.key" and row["value"] == key else {}
            made.append({**row, **place, **named})
        if len(made) > 5000 or new is keys[-1]:
            connection.execute(sqlalchemy.insert(table), made)
            made = []


def timed(commands: list[list[str]]) -> list[tuple[float, float]]:
    """CPU seconds and seconds of the commands, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [(cpu, wall) for cpu, wall in json.loads(done.stdout)]


if __name__ == "__main__":
    main()
