"""One builder a generation: locks on a disk, claims in an object store; what is dead does not hold."""

import subprocess
import sys
import threading
import time

import pytest

from clray.errors import StorageError
from clray.lineage import lease
from clray.lineage.store import Store

HOLDER = """
import sys, time
from clray.lineage import lease
from clray.lineage.store import Store
with lease.hold(Store(sys.argv[1]), "k", "docs", print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds generation k of the store."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_held_generation_is_refused_naming_the_holder(tmp_path, other):
    with (
        pytest.raises(StorageError, match=rf"docs \(generation k\) is being built by process {other.pid} on .* since"),
        lease.hold(Store(str(tmp_path)), "k", "docs", print, wait=False),
    ):
        pass


def test_another_generation_is_free(tmp_path, other):
    with lease.hold(Store(str(tmp_path)), "another", "docs", print, wait=False):
        pass


def test_who_waits_says_so_once_and_goes_on_when_the_holder_is_killed(tmp_path, other):
    said = []
    threading.Timer(1.0, other.kill).start()
    with lease.hold(Store(str(tmp_path)), "k", "docs", said.append):
        assert len(said) == 1 and str(other.pid) in said[0]
    with lease.hold(Store(str(tmp_path)), "k", "docs", said.append, wait=False):
        assert len(said) == 1


@pytest.fixture
def bucket(monkeypatch):
    """A store in a real S3 server (moto), with the patience of a test."""
    moto = pytest.importorskip("moto.server")
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="clray")
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "TTL_SECONDS", 6.0)
    yield f"s3://clray/store?endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    server.stop()


def test_of_many_that_claim_at_once_one_builds_at_a_time(bucket):
    """Four threads with claims of their own: never two inside, and all come in at last."""
    inside, most, came = [], [], []

    def build(name):
        with lease.hold(Store(bucket), "crowd", "docs", lambda text: None):
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.2)
            inside.remove(name)
            came.append(name)

    threads = [threading.Thread(target=build, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(came) == [0, 1, 2, 3] and max(most) == 1


def test_a_claim_that_is_not_renewed_any_more_does_not_hold(bucket):
    store = Store(bucket)
    dead = lease._Claim(store, "k")
    assert dead.take()
    dead._done.set()
    with pytest.raises(StorageError, match="being built by process"), lease.hold(store, "k", "x", print, wait=False):
        pass
    time.sleep(8.0)
    with lease.hold(store, "k", "x", print, wait=False):
        assert store.list("leases/k")


def test_a_claim_keeps_its_length(bucket):
    """Who read a claim of five letters while one of four took its place got a stray byte, and a driver that waited died
    of a damaged file."""
    claim = lease._Claim(Store(bucket), "k")
    path = claim._store.path(claim._file(claim._mine))
    claim._write()
    before = claim._store.fs.get_file_info(path).size
    assert claim.take()
    assert claim._store.fs.get_file_info(path).size == before > 0
    claim.release()
