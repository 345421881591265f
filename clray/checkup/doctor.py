"""The examination: the driver first, then every node of the cluster, then what the stream asks of both."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clray.checkup import node as there
from clray.checkup.findings import Check, Diagnosis, State
from clray.checkup.judgement import Node, judge, versions
from clray.errors import ResourceError, StorageError, UserError
from clray.lineage.environment import environment
from clray.lineage.ledger import Ledger, default_tracking, redact
from clray.lineage.mlflow_store import library
from clray.lineage.store import Store
from clray.ray_session import connect, demand
from clray.spec import loading
from clray.spec.stream import Stream

PATIENCE_SECONDS = 240
HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head of a cluster."""
SMALLEST = "{name: doctor, stages: [{name: any, kind: pretrain, data: 'builtin:docs'}]}"


def doctor(stream: Stream | None = None) -> Diagnosis:
    """The diagnosis of this driver and of the cluster of RAY_ADDRESS, or of a small local one where there is none.

    With a stream its storage, tracking and resources are looked at too: a small file is written to the storage
    from the driver and from every node, and taken away again. Trains nothing.
    """
    return Diagnosis(tuple(_examine(stream)))


def _examine(stream: Stream | None) -> Iterator[Check]:
    mine = environment()
    yield _driver("versions", versions(mine))
    yield _mlflow()
    store, folder = None, f".clray-doctor-{uuid.uuid4().hex[:12]}"
    if stream is not None:
        store, check = _storage(stream, folder)
        yield check
        yield _tracking(stream)
    try:
        yield from _cluster(stream or loading.loads(SMALLEST), store, folder, mine)
    finally:
        if store is not None:
            with contextlib.suppress(OSError):
                store.fs.delete_dir(store.path(folder))


def _driver(name: str, found: str, state: State = State.OK, mend: str = "") -> Check:
    return Check(name=name, where="driver", state=state, found=found, mend=mend)


def _mlflow() -> Check:
    try:
        mlflow = library()
    except StorageError as error:
        return _driver("mlflow", str(error), State.FAIL)
    return _driver("mlflow", f"{mlflow.__version__} from {Path(mlflow.__file__).parent}")


def _storage(stream: Stream, folder: str) -> tuple[Store | None, Check]:
    """The store with the driver's file in it (None where that cannot be), and the check."""
    try:
        store = Store(stream.storage)
        store.check_writable()
        store.write_bytes(f"{folder}/driver", b"driver")
    except UserError as error:
        return None, _driver("storage", str(error), State.FAIL)
    return store, _driver("storage", f"{redact(store.root)}, writable")


def _tracking(stream: Stream) -> Check:
    try:
        uri = stream.tracking or default_tracking(Store(stream.storage))
        Ledger(uri, stream.name).check()
    except UserError as error:
        return _driver("tracking", str(error), State.FAIL)
    return _driver("tracking", f"{redact(uri)} answers")


def _cluster(stream: Stream, store: Store | None, folder: str, mine: dict[str, Any]) -> Iterator[Check]:
    import ray

    present = ray.is_initialized()
    try:
        yield _join(stream)
        if ray.is_initialized():
            yield from _nodes(stream, store, folder, mine)
    finally:
        if not present:
            ray.shutdown()


def _join(stream: Stream) -> Check:
    """Joins or starts Ray; whether the stream's workers fit into it."""
    import ray

    try:
        connect(stream)
    except ResourceError as error:
        return Check(name="resources", where="cluster", state=State.FAIL, found=str(error))
    except Exception as error:  # whatever keeps this driver from the cluster is the finding
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        mend = (
            "look whether the cluster runs the driver's Ray and Python, and whether it asks for a token: then "
            "RAY_AUTH_MODE=token, and the cluster's token in ~/.ray/auth_token"
        )
        return Check(name="cluster", where="driver", state=State.FAIL, found=reason, mend=mend)
    asked = ", ".join(
        f"{amount} {kind}s" for kind, amount in demand(stream, stream.compute.workers.min).items() if amount
    )
    has = ray.cluster_resources()
    there_are = ", ".join(f"{has.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
    return Check(name="resources", where="cluster", state=State.OK, found=f"{there_are}; the stream asks for {asked}")


def _nodes(stream: Stream, store: Store | None, folder: str, mine: dict[str, Any]) -> Iterator[Check]:
    """The checks of every living node, each of which reports by a task of its own."""
    import ray

    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=_head_first)
    many = len({node["NodeManagerAddress"] for node in nodes}) < len(nodes)
    reports = {
        node["NodeID"]: _task(there.report, node).remote(store.root if store else None, folder, node["NodeID"])
        for node in nodes
    }
    ray.wait(list(reports.values()), num_returns=len(nodes), timeout=PATIENCE_SECONDS, fetch_local=False)
    for node in nodes:
        name = node["NodeManagerAddress"] + (f" {node['NodeID'][:6]}" if many else "")
        try:
            facts = ray.get(reports[node["NodeID"]], timeout=0.1)
            skew, error = _skew(node)
        except (ray.exceptions.RayError, TimeoutError) as failure:
            yield _silent(name, failure)
            continue
        _read_back(store, folder, node["NodeID"], facts)
        known = Node(name=name, resources=node["Resources"], skew=skew, skew_error=error)
        yield from judge(known, facts, mine, stream.compute)


def _head_first(node: dict[str, Any]) -> tuple[bool, str, str]:
    return HEAD not in node["Resources"], node["NodeManagerAddress"], node["NodeID"]


def _task(function: Any, node: dict[str, Any]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=here)


def _skew(node: dict[str, Any]) -> tuple[float, float]:
    """The node's clock minus the driver's, and by how much that may be wrong, in seconds."""
    import ray

    asked = time.time()
    told = ray.get(_task(there.clock, node).remote(), timeout=PATIENCE_SECONDS)
    answered = time.time()
    return told - (asked + answered) / 2, (answered - asked) / 2


def _read_back(store: Store | None, folder: str, node: str, facts: dict[str, Any]) -> None:
    """Whether what the node wrote is read here."""
    if store is not None and facts["storage"]["seen"] and not facts["storage"]["error"]:
        facts["storage"]["seen"] = store.exists(f"{folder}/{node}")


def _silent(name: str, failure: Exception) -> Check:
    reason = str(failure).strip().splitlines()
    found = f"it does not report: {reason[-1] if reason else type(failure).__name__}"
    mend = "install the driver's clray on the node, in the Python that Ray runs there; look at the node's Ray log"
    return Check(name="node", where=name, state=State.FAIL, found=found, mend=mend)
