"""A stream sent to a real cluster of two nodes that asks for a token, and what is refused before anything is sent."""

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
import zipfile
from pathlib import Path

import pytest

from clray.errors import DataError, ModelError, StorageError, UserError
from clray.spec import loading
from clray.submission import package, server
from clray.submission.job import _forwarded, _last_attempt
from clray.submission.package import pack
from texts import texts, write_lines

BIN = Path(sys.executable).parent
MOUNTS = shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
SECRET = "5up3r-s3cret"
STREAM = """
name: sent
model: {{base: tiny}}
storage: {storage}
sequence_length: 64
batch: {{size: 8}}
stages:
  - {{name: text, kind: pretrain, data: data/text.jsonl}}
"""
STAND_IN = """#!/bin/sh
# stands for the cluster's Python where a test needs a job of its own length and end
echo begun $$ "$@"
case "$DEED" in wait) sleep 60;; fail) exit 2;; esac
echo ended
"""


# What is sent, without any cluster


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of a submitter, with a stream and its data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "text.jsonl", [{"text": "a b c"}])
    write_lines(tmp_path / "data" / "more.jsonl", [{"text": "d e f"}])
    return tmp_path


def stream_of(data="data/text.jsonl", **settings):
    lines = [f"{key}: {value}" for key, value in {"storage": "/shared/store", **settings}.items()]
    return loading.loads("name: a\n" + "\n".join(lines) + f"\nstages: [{{name: x, kind: pretrain, data: '{data}'}}]")


def test_only_what_the_stream_names_is_sent(folder):
    write_lines(folder / "data" / "other.jsonl", [{"text": "stays"}])
    (folder / ".env").write_text(SECRET)
    (folder / ".gitignore").write_text("data/\n")
    sent = pack(stream_of("data/[tm]*.jsonl"), code=False)
    assert set(sent.files) == {"data/text.jsonl", "data/more.jsonl"}
    sent.write(folder / "sent.zip")
    with zipfile.ZipFile(folder / "sent.zip") as archive:
        assert set(archive.namelist()) == {"clray-stream.yaml", *sent.files}
        assert archive.read("data/text.jsonl") == (folder / "data" / "text.jsonl").read_bytes()
        assert loading.loads(archive.read("clray-stream.yaml").decode()) == stream_of("data/[tm]*.jsonl")


def test_the_code_goes_along_and_changes_the_digest(folder):
    with_code, without = pack(stream_of()), pack(stream_of(), code=False)
    assert {"clray/cli.py", "clray/report/page.html", "clray/spec/template.yaml"} <= set(with_code.files)
    assert not [name for name in with_code.files if "__pycache__" in name]
    assert with_code.digest != without.digest == pack(stream_of(), code=False).digest


def test_the_digest_follows_the_content_of_the_data(folder):
    before = pack(stream_of(), code=False).digest
    write_lines(folder / "data" / "text.jsonl", [{"text": "other"}])
    assert pack(stream_of(), code=False).digest != before


def test_a_path_above_the_working_directory_keeps_its_meaning(folder, monkeypatch):
    (folder / "jobs").mkdir()
    monkeypatch.chdir(folder / "jobs")
    sent = pack(stream_of("../data/text.jsonl"), code=False)
    assert (sent.folder, sent.stream_file) == ("jobs", "jobs/clray-stream.yaml")
    assert set(sent.files) == {"data/text.jsonl"}


def test_absolute_paths_and_uris_are_the_clusters(folder):
    stream = loading.loads(
        "{name: a, storage: /s, model: {base: /models/llama}, stages: [{name: x, kind: pretrain, "
        "data: [/corpora/law/*.parquet, 's3://bucket/x.jsonl', '~/notes.md', 'builtin:docs', 'hf:some/set']}]}"
    )
    sent = pack(stream, code=False)
    assert sent.files == {}
    assert sent.elsewhere == ("/corpora/law/*.parquet", "s3://bucket/x.jsonl", "~/notes.md", "/models/llama")


def test_data_of_tasks_and_of_controls_goes_along(folder):
    stream = loading.loads(
        "{name: a, storage: /s, stages: [{name: x, kind: pretrain, data: 'builtin:docs'}], "
        "tasks: [{name: t, scorer: perplexity, data: data/text.jsonl}], "
        "controls: {c: {stages.x.data: data/more.jsonl}}}"
    )
    assert set(pack(stream, code=False).files) == {"data/text.jsonl", "data/more.jsonl"}


def test_the_folder_of_a_suite_goes_along(folder):
    (folder / "own" / "data").mkdir(parents=True)
    (folder / "own" / "quiz.yaml").write_text("task: quiz")
    write_lines(folder / "own" / "data" / "quiz.jsonl", [{"question": "a"}])
    task = "{name: t, scorer: suite, suite: quiz, include: INCLUDE}"
    sent = pack(stream_of(tasks=f"[{task.replace('INCLUDE', 'own')}]"), code=False)
    assert {"own/quiz.yaml", "own/data/quiz.jsonl"} <= set(sent.files)
    with pytest.raises(DataError, match="include 'absent' is not a folder"):
        pack(stream_of(tasks=f"[{task.replace('INCLUDE', 'absent')}]"), code=False)


def test_a_model_folder_goes_along_without_pickles(folder, tiny_model):
    shutil.copytree(tiny_model, folder / "tiny")
    (folder / "tiny" / "pytorch_model.bin").write_bytes(b"\0")
    sent = set(pack(stream_of(model="{base: tiny}"), code=False).files)
    assert {"tiny/config.json", "tiny/model.safetensors", "tiny/tokenizer.json"} <= sent
    assert "tiny/pytorch_model.bin" not in sent
    assert pack(stream_of(model="{base: some-org/some-model}"), code=False).elsewhere == ()
    with pytest.raises(ModelError, match=r"model './none' is not a folder"):
        pack(stream_of(model="{base: ./none}"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"storage": "clray-store"}, StorageError, r"storage 'clray-store' is relative: .* Give storage=/FOLDER"),
        ({"storage": "~/store"}, StorageError, r"storage '~/store' is relative"),
        ({"storage": "s3://b/p"}, StorageError, "no MLflow tracking URI is given"),
        ({"tracking": "sqlite:///mlflow.db"}, StorageError, "is a relative file"),
        (
            {"tracking": "http://me:secret@host:5000"},
            UserError,
            r"holds credentials.*http://\*\*\*@host:5000.*--env NAME",
        ),
        ({"data": "s3://b/x.jsonl?secret_key=abc"}, UserError, r"holds credentials.*secret_key=\*\*\*"),
        ({"data": "data/none.jsonl"}, DataError, "source 'data/none.jsonl': no such file"),
    ],
)
def test_what_is_refused_before_anything_is_sent(folder, settings, error, message):
    with pytest.raises(error, match=message) as refused:
        pack(stream_of(**settings))
    assert "secret@" not in str(refused.value) and "abc" not in str(refused.value)


def test_a_file_that_rayignore_keeps_back_is_named(folder):
    (folder / ".rayignore").write_text("*.db\ndata/more*\n")
    pack(stream_of())
    with pytest.raises(UserError, match=r"'data': 1 of its 2 files \(say data/more.jsonl\) are kept from the cluster"):
        pack(stream_of("data"))


def test_too_many_bytes_are_refused_with_the_largest_files(folder, monkeypatch):
    monkeypatch.setattr(package, "LIMIT", 10)
    with pytest.raises(UserError, match=r"come to 0 MiB; at most 0 MiB go along.*data/text.jsonl 0 MiB"):
        pack(stream_of(), code=False)


def test_variables_are_forwarded_by_name_alone(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    assert _forwarded(["MY_KEY"]) == {"MY_KEY": SECRET}
    with pytest.raises(UserError, match="there is no such variable") as refused:
        _forwarded(["MY_OTHER_KEY"])
    with pytest.raises(UserError, match="give the name alone") as refused:
        _forwarded([f"MY_KEY={SECRET}"])
    assert SECRET not in str(refused.value)


def test_a_mode_that_keeps_the_token_back_is_said(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    said = str(server._refused("http://head:8265", "Authentication required: ..."))
    assert "RAY_AUTH_MODE=disabled keeps the token back; unset it" in said and SECRET not in said


def test_attempts_are_counted():
    jobs = {"clray-a-00": "FAILED", "clray-a-00-2": "STOPPED", "clray-a-00-10": "RUNNING", "clray-a-00-x": "FAILED"}
    assert _last_attempt("clray-a-00", jobs) == (10, "RUNNING")
    assert _last_attempt("clray-a-00", {"clray-a-00": "SUCCEEDED", "clray-a-001": "FAILED"}) == (1, "SUCCEEDED")
    assert _last_attempt("clray-b-00", jobs) == (0, "")


QUICK = {
    "RAY_AUTH_MODE": "token",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "OMP_NUM_THREADS": "1",
}

# A cluster of a head without CPUs and one node, each with a temporary folder of its own


class Cluster:
    """Two nodes as processes of their own; ended by their process ids."""

    def __init__(self, folder):
        self.folder, self.nodes = folder, []
        (folder / "token").write_text("a" * 64)
        (folder / "h").mkdir()
        self.gcs, self.port, client, *agents = _free_ports(5)
        self.url = f"http://127.0.0.1:{self.port}"
        head = ["--head", f"--port={self.gcs}", "--num-cpus=0", f"--ray-client-server-port={client}"]
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}"]
        self._start("h", [*head, f"--dashboard-agent-listen-port={agents[0]}"])
        self._worker = ["--num-cpus=4", f"--address=127.0.0.1:{self.gcs}", f"--dashboard-agent-listen-port={agents[1]}"]

    def add_node(self):
        """A node that does not see the head's temporary folder, as on another machine; waits until it is up."""
        if len(self.nodes) > 1:
            return
        hide = f'mount -t tmpfs none {self.folder / "h"} && exec "$@"'
        self._start("w", self._worker, ["unshare", "-m", "sh", "-c", hide, "sh"] if MOUNTS else [])
        stop = time.monotonic() + 300
        while "Ray runtime started" not in (self.folder / "w.log").read_text():
            assert self.nodes[-1].poll() is None and time.monotonic() < stop, (self.folder / "w.log").read_text()
            time.sleep(0.2)

    def _start(self, name, options, before=()):
        from clray.ray_session import LOCAL_CLUSTER

        environment = clean_environment() | LOCAL_CLUSTER | QUICK | {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        command = [*before, BIN / "ray", "start", "--block", "--disable-usage-stats"]
        command += [f"--temp-dir={self.folder / name}", "--object-store-memory=150000000", *options]
        with open(self.folder / f"{name}.log", "wb") as log:
            node = subprocess.Popen(
                [*map(str, command)], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(node)

    def client(self):
        from ray.job_submission import JobSubmissionClient

        token = (self.folder / "token").read_text()
        return JobSubmissionClient(self.url, headers={"Authorization": f"Bearer {token}"})

    def stop(self):
        for node in reversed(self.nodes):
            node.terminate()
        for node in reversed(self.nodes):
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def clean_environment():
    """This process's variables without those of Ray; the venv's programs first, as in an image."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


class Submitter:
    """Runs commands in a working directory with a stream, against a cluster, with its token."""

    def __init__(self, cluster, folder, storage):
        self.cluster, self.folder, self.storage = cluster, folder, storage
        (folder / "stand-in").write_text(STAND_IN)
        (folder / "stand-in").chmod(0o755)

    def start(self, *arguments, **environment):
        variables = clean_environment() | {"RAY_AUTH_TOKEN_PATH": str(self.cluster.folder / "token"), **environment}
        variables = {name: value for name, value in variables.items() if value is not None}
        return subprocess.Popen(
            [str(BIN / "clray"), "submit", *map(str, arguments)],
            cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background ignores it
        )  # fmt: skip

    def submit(self, *arguments, **environment):
        """Exit code, standard output and standard error of `clray submit stream.yaml`."""
        process = self.start("stream.yaml", *arguments, "--address", self.cluster.url, **environment)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def stand_in(self, name, deed, *arguments, **environment):
        """The same for a job that only pretends: it waits, fails or ends at once."""
        pretend = [f"name={name}", "--python", self.folder / "stand-in", "--cluster-code", "--env", "DEED"]
        return self.submit(*pretend, *arguments, DEED=deed, **environment)


@pytest.fixture(scope="module")
def submitter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("submitter")
    (folder / "data").mkdir()
    write_lines(folder / "data" / "text.jsonl", [{"text": t} for t in texts(40)])
    shutil.copytree(tiny_model, folder / "tiny")
    (folder / "stream.yaml").write_text(STREAM.format(storage=folder / "store"))
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp", ignore_cleanup_errors=True) as place:
        cluster = Cluster(Path(place))
        try:
            yield Submitter(cluster, folder, folder / "store")
        finally:
            cluster.stop()


def submission_id(said):
    return re.search(r"(clray-[\w.-]+-[0-9a-f]{12}(-\d+)?)", said)[1]


@pytest.mark.ray
@pytest.mark.slow
class TestOnACluster:
    """In order: the first test sends its stream while the cluster still comes up."""

    def test_a_job_is_sent_while_the_cluster_comes_up(self, submitter):
        code, out, err = submitter.stand_in("early", "end", "--patience", "120")
        assert "waiting up to 120 s for the job server" in err
        assert code == 0, err
        assert re.search(r"begun \d+ -m clray run clray-stream.yaml", out) and "ended" in out
        submitter.cluster.add_node()

    def test_without_the_token_the_mend_is_said(self, submitter, tmp_path):
        code, _, err = submitter.submit(RAY_AUTH_TOKEN_PATH=None, HOME=str(tmp_path))
        assert code == 2 and "asks for a token, and there is none here" in err and "~/.ray/auth_token" in err
        code, _, err = submitter.submit(RAY_AUTH_TOKEN="another")
        assert code == 2 and "does not accept the token" in err
        assert "Traceback" not in err

    def test_a_running_job_is_followed_and_not_sent_twice(self, submitter):
        code, out, err = submitter.stand_in("long", "wait", "--detach")
        assert code == 0, err
        job = submission_id(err)
        assert out == f"{job}\n"
        follower = submitter.start(
            "stream.yaml", "name=long", "--python", submitter.folder / "stand-in", "--cluster-code",
            "--env", "DEED", "--address", submitter.cluster.url, DEED="wait",
        )  # fmt: skip
        while "begun" not in follower.stdout.readline():
            assert follower.poll() is None
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=60)
        assert follower.returncode == 130
        assert re.search(f"job {job} is (running|pending) already", err) and "the job goes on" in err
        assert f"ray job stop --address {submitter.cluster.url} {job}" in err
        client = submitter.cluster.client()
        assert client.get_job_status(job) == "RUNNING"
        assert [j.submission_id for j in client.list_jobs() if "long" in (j.submission_id or "")] == [job]
        client.stop_job(job)
        while client.get_job_status(job) == "RUNNING":
            time.sleep(0.2)
        code, _, err = submitter.stand_in("long", "fail")
        assert (
            f"job {job} has stopped; started again" in err
            and submission_id(err.partition("submitted")[2]) == f"{job}-2"
        )
        assert code == 2, "a user's error in the job is one of the command"

    @pytest.mark.skipif(not MOUNTS, reason="the node cannot be given mounts of its own")
    def test_the_doctor_tells_a_storage_that_only_the_head_has(self, submitter):
        place = submitter.cluster.folder / "h" / "store"
        token = {"RAY_AUTH_TOKEN_PATH": str(submitter.cluster.folder / "token")}
        looked = subprocess.run(
            [str(BIN / "clray"), "doctor", "stream.yaml", f"storage={place}", "--json"],
            cwd=submitter.folder, capture_output=True, text=True, timeout=300,
            env=clean_environment() | token | {"RAY_ADDRESS": f"127.0.0.1:{submitter.cluster.gcs}"},
        )  # fmt: skip
        found = json.loads(looked.stdout)
        assert looked.returncode == found["exit_code"] == 2, looked.stderr
        storage = [check for check in found["checks"] if check["name"] == "storage"]
        assert [check["state"] for check in storage] == ["OK", "OK", "FAIL"], found["checks"]
        assert "another folder than the driver's" in storage[2]["found"]
        assert {check["state"] for check in found["checks"] if check["name"] == "versions"} == {"OK"}

    def test_a_stream_is_trained_on_the_cluster_and_recorded(self, submitter):
        submitter.cluster.add_node()
        code, out, err = submitter.submit("--env", "MY_KEY", MY_KEY=SECRET)
        assert code == 0, out + err
        assert "1 of 1 generations trained now" in out
        client = submitter.cluster.client()
        job = client.get_job_info(submission_id(err))
        assert job.metadata["clray.stream"] == "sent" and SECRET not in json.dumps(job.metadata) + job.entrypoint
        assert job.runtime_env["env_vars"]["MY_KEY"] == SECRET
        assert SECRET not in out + err + client.get_job_logs(job.submission_id)
        from clray.lineage.ledger import Ledger

        recorded = Ledger(f"sqlite:///{submitter.storage}/mlflow.db", "sent").generations()
        assert [row["stage"] for row in recorded] == ["base", "text"]

    def test_ray_job_submit_does_the_same_and_trains_nothing_twice(self, submitter):
        token = {"RAY_AUTH_TOKEN_PATH": str(submitter.cluster.folder / "token"), "RAY_AUTH_MODE": "token"}
        command = [BIN / "ray", "job", "submit", "--address", submitter.cluster.url, "--working-dir", "."]
        (submitter.folder / ".rayignore").write_text("store/\n")
        ended = subprocess.run(
            [*map(str, command), "--", "clray", "run", "stream.yaml"],
            cwd=submitter.folder, env=clean_environment() | token, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "0 of 1 generations trained now, 1 taken from the store" in ended.stdout


@pytest.mark.ray
def test_a_server_that_is_not_there_is_a_users_error(folder):
    (folder / "stream.yaml").write_text(STREAM.format(storage="/s").replace("model: {base: tiny}", ""))
    ended = subprocess.run(
        [str(BIN / "clray"), "submit", "stream.yaml", "--address", "http://127.0.0.1:9", "--patience", "1"],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ended.returncode == 2 and "does not answer after 1 s" in ended.stderr and "Traceback" not in ended.stderr
