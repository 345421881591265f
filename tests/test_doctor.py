"""The doctor on a real cluster, on what is in the way of a run, and its judgement of nodes that are not at hand."""

import json

import pytest

import clray
from clray.checkup import node as there
from clray.checkup.doctor import _silent, _skew, _task
from clray.checkup.findings import Check, Diagnosis, State
from clray.checkup.judgement import Node, judge
from clray.lineage.environment import environment
from clray.lineage.store import Store
from clray.spec import loading
from clray.spec.stream import Compute

GIB = 1 << 30
H200 = {"name": "NVIDIA H200", "bytes": 139 * GIB, "bf16": True}
V100 = {"name": "Tesla V100", "bytes": 32 * GIB, "bf16": False}


def stream_of(storage, **settings):
    lines = "\n".join(f"{key}: {value}" for key, value in settings.items())
    return loading.loads(
        f"name: looked-at\nstorage: {storage}\n{lines}\nstages: [{{name: x, kind: pretrain, data: 'builtin:docs'}}]"
    )


def facts(**changed):
    """What a healthy node without GPUs says of itself, with changes."""
    healthy = {
        "environment": environment(),
        "compiler": "/usr/bin/c++",
        "ninja": "/usr/bin/ninja",
        "devices": [],
        "import_error": None,
        "disk": {"folder": "/tmp", "free": 50 * GIB},
        "shared_memory": 8 * GIB,
        "storage": {"seen": True, "error": None, "free": 50 * GIB},
    }
    return healthy | changed


def judged(resources=None, skew=0.0, compute=None, **changed):
    """Name of the check -> the check, of a node of which that was said."""
    resources = {"CPU": 4.0, "object_store_memory": 2.0 * GIB} if resources is None else resources
    node = Node(name="n", resources=resources, skew=skew, skew_error=0.01)
    return {check.name: check for check in judge(node, facts(**changed), environment(), compute or Compute())}


def other(**packages):
    mine = environment()
    return {**mine, "packages": mine["packages"] | packages}


def test_a_healthy_node_is_fine():
    checks = judged()
    assert {check.state for check in checks.values()} == {State.OK}
    assert not [check.mend for check in checks.values() if check.mend]
    assert set(checks) == {
        "versions", "imports", "compilers", "devices", "disk", "shared memory", "clock", "storage",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "state", "found", "changed"),
    [
        ("versions", State.FAIL, "ray 2.0.0 (driver: ", {"environment": other(ray="2.0.0")}),
        ("versions", State.FAIL, "clray not installed (driver: ", {"environment": other(clray="not installed")}),
        ("versions", State.WARN, "numpy 1.0 (driver: ", {"environment": other(numpy="1.0")}),
        ("versions", State.FAIL, "Python 2.7.1 (driver: ", {"environment": {**environment(), "python": "2.7.1"}}),
        ("imports", State.FAIL, "No module named", {"import_error": "No module named 'deepspeed'"}),
        ("compilers", State.FAIL, "no C++ compiler", {"compiler": None}),
        ("compilers", State.WARN, "no ninja", {"ninja": None, "devices": [H200], "resources": {"CPU": 4, "GPU": 1}}),
        ("compilers", State.WARN, "no ninja", {"ninja": None, "resources": {}}),
        ("devices", State.OK, "2 x NVIDIA H200 139 GiB, bf16", {"devices": [H200, H200], "resources": {"GPU": 2}}),
        ("devices", State.FAIL, "Ray gives 8 GPUs, torch sees 0", {"resources": {"CPU": 1, "GPU": 8}}),
        ("devices", State.FAIL, "no bf16", {"devices": [V100], "compute": Compute(precision="bf16")}),
        ("devices", State.OK, "no bf16", {"devices": [V100]}),
        ("disk", State.WARN, "/tmp: 9 GiB free", {"disk": {"folder": "/tmp", "free": 9 * GIB}}),
        ("disk", State.WARN, "storage: 1 GiB free", {"storage": {"seen": True, "error": None, "free": GIB}}),
        ("shared memory", State.WARN, "/dev/shm 0.1 GiB", {"shared_memory": GIB // 16}),
        ("clock", State.WARN, "-20.0 s from the driver's", {"skew": -20.0}),
        ("clock", State.FAIL, "+3600.0 s from the driver's", {"skew": 3600.0}),
        ("storage", State.FAIL, "another folder", {"storage": {"seen": False, "error": None, "free": None}}),
        ("storage", State.FAIL, "Access denied", {"storage": {"seen": True, "error": "Access denied", "free": None}}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node_is_found(name, state, found, changed):
    check = judged(**changed)[name]
    assert (check.state, found in check.found) == (state, True), check
    assert bool(check.mend) == (state is not State.OK)


def test_only_a_failure_stands_in_the_way(capsys):
    rows = [Check(name="clock", where=f"10.0.0.{i}", state=State.WARN, found="late", mend="chrony") for i in range(5)]
    assert Diagnosis(tuple(rows)).exit_code == 0
    failed = Diagnosis((*rows, Check(name="imports", where="10.0.0.9", state=State.FAIL, found="no torch")))
    assert failed.exit_code == 2 and failed.to_dict()["checks"][-1]["state"] == "FAIL"
    failed.show()
    shown = capsys.readouterr().out
    assert "10.0.0.0 and 4 more" in shown and "0 OK, 5 WARN, 1 FAIL" in shown


def test_a_node_with_a_storage_of_its_own_is_told_apart(tmp_path):
    """The same path on two machines may be two folders: the driver's file is then not there."""
    mine, its = Store(str(tmp_path / "mine")), Store(str(tmp_path / "its"))
    mine.write_bytes(".clray-doctor-1/driver", b"driver")
    assert there._meet(mine, ".clray-doctor-1", "n1")["seen"] and mine.exists(".clray-doctor-1/n1")
    assert not there._meet(its, ".clray-doctor-1", "n1")["seen"] and not its.exists(".clray-doctor-1/n1")


@pytest.mark.ray
@pytest.mark.slow
def test_the_doctor_finds_this_cluster_fine_and_leaves_nothing(ray_cluster, tmp_path):
    diagnosis = clray.doctor(stream_of(tmp_path / "store"))
    found = {check.name: check for check in diagnosis.checks}
    assert diagnosis.exit_code == 0, diagnosis
    assert found["resources"].found == "6 CPUs, 0 GPUs; the stream asks for 2 CPUs"
    assert "site-packages/mlflow" in found["mlflow"].found and "torch" in found["imports"].found
    assert len([check for check in diagnosis.checks if check.name == "storage"]) == 2, "driver and node"
    assert {p.name for p in (tmp_path / "store").iterdir()} <= {"mlflow.db"}
    json.dumps(diagnosis.to_dict())


@pytest.mark.ray
@pytest.mark.slow
def test_what_is_in_the_way_is_one_row_each(ray_cluster, tmp_path):
    stream = stream_of("/proc/clray", tracking="http://127.0.0.1:9", compute="{workers: 50}")
    diagnosis = clray.doctor(stream)
    failed = {check.name: check.found for check in diagnosis.checks if check.state is State.FAIL}
    assert diagnosis.exit_code == 2 and set(failed) == {"storage", "tracking", "resources"}
    assert "not writable" in failed["storage"] and "127.0.0.1:9" in failed["tracking"]
    assert "asks for 51 CPUs" in failed["resources"] and "the cluster has 6" in failed["resources"]
    assert "versions" in {check.name for check in diagnosis.checks if check.where != "driver"}, "nodes are looked at"


@pytest.mark.ray
def test_a_node_that_cannot_report_is_a_failure(ray_cluster):
    import ray

    def breaks():
        raise ModuleNotFoundError("No module named 'clray'")

    node = ray.nodes()[0]
    with pytest.raises(ray.exceptions.RayError) as raised:
        ray.get(_task(breaks, node).remote())
    check = _silent("n", raised.value)
    assert check.state is State.FAIL and "No module named 'clray'" in check.found
    skew, error = _skew(node)
    assert abs(skew) <= error + 0.001
