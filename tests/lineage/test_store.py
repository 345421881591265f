"""The store on a disk and on a real S3 server over loopback: whole files, committed generations, no secrets."""

import socket
import subprocess
import sys
import time

import pytest

from clray.errors import StorageError
from clray.lineage.generation import Generation
from clray.lineage.store import Store


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def s3_uri():
    """URI of a bucket on a moto server of this test's own."""
    pytest.importorskip("moto", reason="moto[server] is a development extra")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield (
            f"s3://bucket/streams?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{port}"
            "&allow_bucket_creation=true"
        )
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path, monkeypatch):
    if request.param == "disk":
        return Store(str(tmp_path / "store"))
    monkeypatch.setenv("CLRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    found = Store(request.getfixturevalue("s3_uri"))
    found.fs.create_dir("bucket", recursive=True)
    return found


def test_what_is_written_is_read_back(store, tmp_path):
    store.check_writable()
    store.write_json("a/b.json", {"ü": [1, None]})
    assert store.read_json("a/b.json") == {"ü": [1, None]}
    assert store.read_json("a/c.json") is None
    assert store.list("a") == ["b.json"] and store.list("none") == []
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "w.bin").write_bytes(b"123")
    digests = store.upload(tmp_path / "folder", "up")
    assert list(digests) == ["inner/w.bin"]
    assert (store.fetch("up") / "inner" / "w.bin").read_bytes() == b"123"
    assert [path.name for path in store.fetch("up/inner").iterdir()] == ["w.bin"]


def test_a_file_deleted_while_it_is_read_is_none(store, monkeypatch):
    """Claims come and go: between the look and the reading another driver may have withdrawn its own."""
    store.write_json("leases/k/a.json", {"pid": 1})
    read = store.read_bytes

    def late(relative):
        store.delete(relative)
        return read(relative)

    monkeypatch.setattr(store, "read_bytes", late)
    assert store.read_json("leases/k/a.json") is None


def test_a_generation_exists_once_its_record_is_written(store):
    made = Generation(key="k" * 32, parent=None, index=0, stage_name="base", base="k" * 32, created="2026-01-01")
    store.write_bytes(f"generations/{made.key}/weights/model.safetensors", b"half")
    assert store.generation(made.key) is None and list(store.generations()) == []
    store.commit(made)
    assert store.generation(made.key) == made and list(store.generations()) == [made]


def test_credentials_in_a_uri_are_refused_without_showing_them():
    with pytest.raises(StorageError, match="put them into the environment") as refused:
        Store("s3://key:secret@bucket/path")
    assert "secret" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(StorageError, match="is not writable"):
        Store("/proc/clray").check_writable()


def test_an_unknown_scheme_is_refused():
    with pytest.raises(StorageError, match="cannot be opened"):
        Store("ftp://host/path")
