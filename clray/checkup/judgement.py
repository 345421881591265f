"""From what a node says of itself to checks: pure functions on plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clray.checkup.findings import Check, State
from clray.spec.stream import Compute

SHAPING = ("clray", "ray", "torch", "transformers", "peft", "deepspeed", "tokenizers")
"""Packages that the workers run: another version there fails, or gives another result."""
LOW_DISK_BYTES = 10 << 30
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 5.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster as Ray knows it: its name for people, its resources, its clock minus the driver's."""

    name: str
    resources: dict[str, float]
    skew: float = 0.0
    skew_error: float = 0.0


def judge(node: Node, facts: dict[str, Any], driver: dict[str, Any], compute: Compute) -> Iterator[Check]:
    """The checks of one node; `driver` is the driver's environment, `compute` what the stream asks for."""
    for name, (state, found, mend) in {
        "versions": _versions(facts["environment"], driver),
        "imports": _imports(facts["import_error"]),
        "compilers": _compilers(facts, trains_here=bool(node.resources.get("CPU")) and not facts["devices"]),
        "devices": _devices(facts, node.resources.get("GPU", 0), compute),
        "disk": _disk(facts),
        "shared memory": _shared_memory(facts["shared_memory"], node.resources.get("object_store_memory", 0)),
        "clock": _clock(node),
        **({"storage": _storage(facts["storage"])} if facts["storage"] else {}),
    }.items():
        yield Check(name=name, where=node.name, state=state, found=found, mend=mend)


Finding = tuple[State, str, str]


def versions(environment: dict[str, Any]) -> str:
    """The versions of Python and of the packages that shape a result, in one line."""
    packages = environment["packages"]
    return ", ".join([f"Python {environment['python']}", *(f"{name} {packages[name]}" for name in SHAPING)])


def _versions(here: dict[str, Any], driver: dict[str, Any]) -> Finding:
    mine, theirs = ({"Python": each["python"], **each["packages"]} for each in (here, driver))
    other = {
        name: f"{name} {mine.get(name)} (driver: {theirs[name]})" for name in theirs if mine.get(name) != theirs[name]
    }
    if not other:
        return State.OK, "the driver's", ""
    python = "Python" in other and mine["Python"].split(".")[:2] != theirs["Python"].split(".")[:2]
    state = State.FAIL if python or set(SHAPING) & set(other) else State.WARN
    return state, ", ".join(other.values()), "one image or environment for driver and nodes, from constraints.txt"


def _imports(error: str | None) -> Finding:
    if error is None:
        return State.OK, "torch and DeepSpeed", ""
    return State.FAIL, error, "mend the installation of torch and deepspeed on the node"


def _compilers(facts: dict[str, Any], trains_here: bool) -> Finding:
    missing = [name for name, what in (("C++ compiler", "compiler"), ("ninja", "ninja")) if not facts[what]]
    if not missing:
        return State.OK, f"{facts['compiler']}, {facts['ninja']}", ""
    state = State.FAIL if trains_here else State.WARN
    return (
        state,
        f"no {' and no '.join(missing)}",
        "apt-get install g++ ninja-build: DeepSpeed builds with them on CPUs",
    )


def _devices(facts: dict[str, Any], rays: float, compute: Compute) -> Finding:
    devices = facts["devices"]
    if rays > len(devices):
        mend = "install a torch with CUDA that fits the driver, or start the node with --num-gpus as many as there are"
        return State.FAIL, f"Ray gives {rays:g} GPUs, torch sees {len(devices)}", mend
    if not devices:
        return State.OK, f"none; {facts['environment']['cores']} cores", ""
    names = sorted({f"{device['name']} {device['bytes'] / 2**30:.0f} GiB" for device in devices})
    found = f"{len(devices)} x {', '.join(names)}, {'bf16' if all(d['bf16'] for d in devices) else 'no bf16'}"
    if compute.precision == "bf16" and not all(device["bf16"] for device in devices):
        return State.FAIL, found, "compute.precision=fp32, or devices that compute in bf16"
    return State.OK, found, ""


def _disk(facts: dict[str, Any]) -> Finding:
    places = {facts["disk"]["folder"]: facts["disk"]["free"]}
    if facts["storage"] and facts["storage"]["free"] is not None:
        places["storage"] = facts["storage"]["free"]
    found = ", ".join(f"{place}: {free / 2**30:.0f} GiB free" for place, free in places.items())
    if min(places.values()) < LOW_DISK_BYTES:
        return (
            State.WARN,
            found,
            f"free {LOW_DISK_BYTES >> 30} GiB or more: Ray spills there, weights are written there",
        )
    return State.OK, found, ""


def _shared_memory(size: int | None, store: float) -> Finding:
    if size is None:
        return State.OK, "not of this platform", ""
    found = f"/dev/shm {size / 2**30:.1f} GiB, Ray's object store {store / 2**30:.1f} GiB"
    if size < store:
        mend = (
            "a larger /dev/shm (docker: --shm-size; Kubernetes: an emptyDir with medium Memory), or Ray uses the disk"
        )
        return State.WARN, found, mend
    return State.OK, found, ""


def _clock(node: Node) -> Finding:
    beyond = max(0.0, abs(node.skew) - node.skew_error)
    found = f"{node.skew:+.1f} s from the driver's, give or take {node.skew_error:.1f} s"
    state = State.FAIL if beyond > SKEW_FAIL_SECONDS else State.WARN if beyond > SKEW_WARN_SECONDS else State.OK
    return (
        state,
        found,
        "" if state is State.OK else "run chrony or ntpd on the node: object stores refuse wrong clocks",
    )


def _storage(meeting: dict[str, Any]) -> Finding:
    if meeting["error"]:
        return State.FAIL, f"cannot be read or written: {meeting['error']}", "rights or credentials on this node"
    if not meeting["seen"]:
        mend = "a disk that every node mounts at this path, or storage=s3://BUCKET/PATH"
        return State.FAIL, "another folder than the driver's: the driver's file is not there", mend
    return State.OK, "the driver's, writable", ""
