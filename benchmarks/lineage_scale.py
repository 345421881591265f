"""What `clray log` and `clray report` take in a storage of 10,000 generations, recorded in SQLite and in PostgreSQL.

    clray run STREAM.yaml
    python benchmarks/lineage_scale.py STREAM.yaml --generations 10000

The storage of the run is copied, and its last generation is copied 10,000 times with keys of their own: records,
scores, and all rows that MLflow's database holds of its run and of its registered version, a long line with a branch
after every fiftieth. Each command is a process of its own. Start-up is the same command on the copy before it is
filled; what stands in the table is the difference, first with nothing known of the storage, then again. Start-up and
"again" are the least of three.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
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
        commands = {
            "log": ["log", "--storage", f"{folder}/store", "--tracking", uri],
            "log --json": ["log", "--storage", f"{folder}/store", "--tracking", uri, "--json"],
            "report": ["report", str(file), *settings, "--out", f"{folder}/report.html"],
        }
        empty = {name: best(command) for name, command in commands.items()}
        fill(Store(f"{folder}/store"), loading.load(file, settings), rows, count)
        time.sleep(3)
        for name, command in commands.items():
            shutil.rmtree(folder / "cache" / "lineage", ignore_errors=True)
            first, again = timed(command), best(command)
            figures = [
                f"{a:.2f}, {b:.2f}" for a, b in (empty[name], less(first, empty[name]), less(again, empty[name]))
            ]
            print(f"| {database} | `clray {name}` | {' | '.join(figures)} |", flush=True)


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


def best(command: list[str]) -> tuple[float, float]:
    """CPU seconds and seconds of the command, of three times the least of each: others may use the machine."""
    found = [timed(command) for _ in range(3)]
    return min(cpu for cpu, _ in found), min(wall for _, wall in found)


def timed(command: list[str]) -> tuple[float, float]:
    """CPU seconds and seconds of the command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "clray", *command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - started


def less(figures: tuple[float, float], start: tuple[float, float]) -> tuple[float, float]:
    """What is beyond the start-up."""
    return figures[0] - start[0], figures[1] - start[1]


if __name__ == "__main__":
    main()
