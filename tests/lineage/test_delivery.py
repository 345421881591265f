"""Telling a real MLflow server that is killed, hangs, or whose answers are lost: later, and exactly once."""

from __future__ import annotations

import http.client
import http.server
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from clray.errors import StorageError
from clray.lineage import delivery
from clray.lineage.delivery import Courier, deliver
from clray.lineage.generation import Generation
from clray.lineage.ledger import Ledger
from clray.lineage.spool import Letter, Spool
from clray.lineage.store import Store
from servers import MLflowServer, free_port, mlflow_server

CURVE = [{"step": n, "loss": 4.0 - n, "learning_rate": 0.1, "tokens_per_second": 9.0} for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    folder = tmp_path_factory.mktemp("killed")
    with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as server:
        yield server


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Generation 0 and two after it, with curves."""
    store = Store(str(tmp_path / "store"))
    for index, key in enumerate("0ab"):
        made = Generation(
            key=key * 32, parent=None if not index else "0ab"[index - 1] * 32, index=index, base=key * 32,
            stage_name=f"s{index}", created=f"2026-01-0{index + 1}T00:00:00+00:00", stage={"kind": "pretrain"},
            training={"steps": 3, "seconds": 2.0, "tokens": 30}, data={"digest": key, "rows": 3},
        )  # fmt: skip
        store.write_json(f"generations/{made.key}/curve.json", CURVE)
        store.commit(made)
    return store


class Stream:
    """A driver's messages about one stream."""

    def __init__(self, uri: str, name: str, store: Store) -> None:
        self.ledger, self.name, self.uri, self.said = Ledger(uri, name), name, uri, list[str]()
        self.courier = Courier(self.ledger, store, self.said.append)

    def send(self, call: Any, now: bool = False, **values: Any) -> str | None:
        letter = Letter(call=call, stream=self.name, digest="5" * 32, tracking=self.uri, values=values)
        return self.courier.send(letter, now)

    def open(self) -> str | None:
        return self.send("open", spec="tracking: http://ann:hunter2@host\n", resolved={"seed": 1})

    def record(self, key: str, **more: Any) -> str | None:
        return self.send("record", key=key * 32, spec="a: 1\n", latest=True, **more)

    def score(self, key: str, value: float) -> None:
        self.send("score", key=key * 32, row={"news": {"accuracy": value}}, index="0ab".index(key), continual={})


def assert_once(uri: str, name: str, keys: str = "0ab") -> None:
    """Each generation stands in MLflow once, whole, below its parent's version."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = {run.data.tags["clray.key"][0]: run for run in client.search_runs([experiment], "tags.`clray.key` != ''")}
    assert len(client.search_runs([experiment])) == len(keys) + 1 and sorted(runs) == sorted(keys)
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(version.tags["clray.key"][0] for version in versions) == sorted(keys)
    assert len(client.search_logged_models([experiment])) == len(keys)
    for run in runs.values():
        losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(losses) == [(1, 3.0), (2, 2.0), (3, 1.0)]
        assert run.data.tags["clray.recorded"] == "true" and run.info.status == "FINISHED"
        assert len(client.get_run(run.info.run_id).inputs.dataset_inputs) == 1


def test_a_server_killed_in_the_middle_is_told_the_rest_when_it_answers_again(
    server: MLflowServer, store: Store
) -> None:
    stream = Stream(server.uri, "killed", store)
    run = stream.open()
    assert stream.record("0") == "1"
    server.stop(signal.SIGKILL)
    assert stream.record("a") is None and stream.record("b") is None
    stream.score("b", 0.5)
    stream.send("attach", files={"report.html": "<p>report</p>"})
    assert len(Spool(store).names("killed")) == 4
    [said] = stream.said
    assert "cannot be used" in said and "The stream goes on; its records wait in file://" in said
    server.start()
    stream.send("finish", now=True, status="FINISHED")
    assert "4 records delivered that had waited" in stream.said[-1] and not Spool(store).streams()
    assert_once(server.uri, "killed")
    above = MlflowClient(server.uri).get_run(run)
    assert above.info.status == "FINISHED" and above.data.metrics["score/news/accuracy"] == 0.5
    assert [file.path for file in MlflowClient(server.uri).list_artifacts(run)] == ["report.html", "spec.yaml"]
    assert deliver(store, print) == delivery.Delivery()


def test_what_a_driver_left_is_delivered_by_a_command_or_by_the_next_run(server: MLflowServer, store: Store) -> None:
    """The server is dead before the stream is opened, the driver ends, and the next one has another run first."""
    server.stop(signal.SIGKILL)
    stream = Stream(server.uri, "left", store)
    assert stream.open() is None and stream.record("0") is None and stream.record("a") is None
    stream.send("finish", now=True, status="KILLED")
    stream.courier.close()
    assert stream.said[-1].endswith(f"clray deliver --storage {store.root}") and "4 records wait" in stream.said[-1]
    assert "hunter2" not in "".join(store.read_bytes(name).decode() for name in Spool(store).names("left"))
    with pytest.raises(StorageError, match="Start the server"):
        deliver(store, print)
    server.start()
    assert deliver(store, print) == delivery.Delivery(delivered=4)
    after = Stream(server.uri, "left", store)
    assert after.open() and after.record("a") == "2" and after.record("b") == "3"
    after.send("finish", status="FINISHED")
    assert_once(server.uri, "left")


class LosingProxy(http.server.BaseHTTPRequestHandler):
    """Hands each request on to the server, and loses the first answer to each kind of write."""

    protocol_version = "HTTP/1.1"
    target = 0
    lost: set[str]

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        way = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        sent = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding")}
        way.request(self.command, self.path, body, sent)
        answer = way.getresponse()
        content = answer.read()
        way.close()
        kind = re.sub(r"artifacts/.*|\?.*|m-[0-9a-f]{32}", "", f"{self.command} {self.path}")
        if not any(word in kind for word in ("GET", "search")) and kind not in self.lost:
            self.lost.add(kind)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_request

    def log_message(self, *_: Any) -> None:
        pass


def test_a_write_whose_answer_is_lost_is_not_written_again(server: MLflowServer, store: Store) -> None:
    handler = type("Losing", (LosingProxy,), {"target": server.port, "lost": set()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        stream = Stream(f"http://127.0.0.1:{proxy.server_port}", "lost", store)
        stream.open()
        stream.record("0")
        stream.record("a")
        stream.score("a", 0.25)
        stream.send("finish", status="FINISHED")
        for _ in range(20):
            if not deliver(store, print).waiting:
                break
        proxy.shutdown()
    assert len(handler.lost) > 10, handler.lost
    assert_once(server.uri, "lost", keys="0a")


def test_a_server_that_hangs_is_left_alone_after_one_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 1e6)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        stream = Stream(f"http://127.0.0.1:{listening.getsockname()[1]}", "hangs", store)
        assert stream.open() is None
        asked = count_waiting(listening)
        assert 1 <= asked <= 4
        assert stream.record("0") is None and count_waiting(listening) == 0
    assert len(Spool(store).names("hangs")) == 2


def count_waiting(listening: socket.socket) -> int:
    """How many have connected since; nobody answers them."""
    listening.setblocking(False)
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_letter_that_mlflow_refuses_stays_and_the_others_are_told(server: MLflowServer, store: Store) -> None:
    """A score of a generation that was never recorded, between the stream's opening and a generation."""
    spool = Spool(store)
    for call, values in (
        ("open", {"spec": "", "resolved": {}}),
        ("score", {"key": "f" * 32, "row": {}, "index": 1, "continual": {}}),
        ("record", {"key": "0" * 32, "spec": "", "latest": True}),
    ):
        spool.put(Letter(call=call, stream="refused", digest="5" * 32, tracking=server.uri, values=values))
    found = deliver(store, print)
    assert (found.delivered, found.waiting) == (2, 1) and "is not recorded in MLflow" in found.reasons[0]
    [left] = spool.names("refused")
    assert json.loads(store.read_bytes(left))["call"] == "score"


def test_credentials_that_were_not_kept_are_asked_for(store: Store) -> None:
    letter = Letter(call="finish", stream="s", digest="5", tracking="http://***@host", values={"status": "FINISHED"})
    Spool(store).put(letter)
    with pytest.raises(StorageError, match=r"whose credentials are not kept\. Give --tracking URI"):
        deliver(store, print)


def test_an_address_that_nobody_listens_at_keeps_the_letters(store: Store) -> None:
    stream = Stream(f"http://127.0.0.1:{free_port()}", "nobody", store)
    assert stream.open() is None and stream.record("0") is None
    assert [letter.call for _, letter in Spool(store).letters("nobody")] == ["open", "record"]
