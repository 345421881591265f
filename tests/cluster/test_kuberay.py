"""The manifests for Kubernetes fit KubeRay's definitions, hold no field these do not know, and fit together."""

from __future__ import annotations

import copy
import gzip
import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

Object = dict[str, Any]
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def strict(schema: Any) -> Any:
    """The schema with every field it does not name refused; the API server drops such fields without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


@pytest.fixture(scope="session")
def definitions() -> dict[str, Object]:
    """Strict schemas by kind: KubeRay's own, and the Kubernetes objects that lie inside them."""
    folder = os.environ.get("CLRAY_KUBERAY_SCHEMAS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("KubeRay's definitions are absent: set CLRAY_KUBERAY_SCHEMAS to a folder of ray.io_*.yaml.gz")
    found = {}
    for file in sorted(Path(folder).glob("ray.io_ray*.yaml.gz")):
        definition = yaml.load(gzip.decompress(file.read_bytes()), Loader=yaml.CSafeLoader)
        [served] = [v for v in definition["spec"]["versions"] if v["name"] == "v1" and v["served"] and v["storage"]]
        found[definition["spec"]["names"]["kind"]] = strict(served["schema"]["openAPIV3Schema"])
    head = found["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]
    pod = head["template"]["properties"]
    for kind in ("RayCluster", "RayJob"):
        found[kind]["properties"]["metadata"] = pod["metadata"]
    volume = pod["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    affinity = pod["spec"]["properties"]["affinity"]["properties"]["podAffinity"]["properties"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["items"]["properties"]
    deployment = {
        "replicas": {"type": "integer", "minimum": 0},
        "strategy": {"type": "object", "properties": {"type": {"enum": ["Recreate", "RollingUpdate"]}}},
        "selector": terms["labelSelector"],
        "template": head["template"],
    }
    service = head["headService"]["properties"]["spec"]
    for kind, spec in {
        "PersistentVolumeClaim": claim,
        "Service": service,
        "Deployment": {"type": "object", "properties": deployment, "required": ["selector", "template"]},
    }.items():
        plain = {"type": "string"}
        fields = {"apiVersion": plain, "kind": plain, "metadata": pod["metadata"], "spec": spec}
        found[kind] = strict({"type": "object", "properties": fields, "required": list(fields)})
    return found


def complaints(document: Object, definitions: dict[str, Object]) -> list[str]:
    """What the object's definition says against it."""
    validator = jsonschema.Draft202012Validator(definitions[document["kind"]])
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


def test_every_object_fits_its_definition(manifests, definitions) -> None:
    assert {kind for kind, _ in manifests} == {
        "RayCluster",
        "RayJob",
        "PersistentVolumeClaim",
        "Service",
        "Deployment",
    }
    versions = {"RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "Deployment": "apps/v1"}
    for (kind, name), document in manifests.items():
        assert document["apiVersion"] == versions.get(kind, "v1")
        assert NAME.fullmatch(name) and len(name) <= 47
        assert complaints(document, definitions) == []


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("spec", "backofLimit"), 3, "backofLimit"),
        (("spec", "backoffLimit"), "3", "not of type 'integer'"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens", "is not one of"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "images"), "x", "images"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "not of type 'string'"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "maxreplicas"), 4, "maxreplicas"),
        (("metadata", "label"), {}, "label"),
    ],
)
def test_a_mistake_is_found(manifests, definitions, place, value, word) -> None:
    document = copy.deepcopy(manifests["RayJob", "clray-stream"])
    inside: Any = document
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    [complaint] = complaints(document, definitions)
    assert word in complaint


def test_both_clusters_are_the_same_but_for_the_mounted_stream(cluster_specs, pods) -> None:
    standing, of_job = (copy.deepcopy(spec) for spec in cluster_specs)
    head = pods(of_job)[0]
    assert head["volumes"].pop() == {"name": "stream", "configMap": {"name": "clray-stream"}}
    assert head["containers"][0]["volumeMounts"].pop()["name"] == "stream"
    assert of_job == standing


def test_the_cluster_is_what_a_stream_needs(cluster_specs, pods) -> None:
    for spec in cluster_specs:
        head, *_ = pods(spec)
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
        environment = {item["name"]: item["value"] for item in head["containers"][0]["env"]}
        assert environment["CLRAY_AUTOSCALING"] == "1"
        assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) < head["terminationGracePeriodSeconds"]
        groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert groups["cpu"]["minReplicas"] >= 1
        assert groups["gpu"]["minReplicas"] == 0 < groups["gpu"]["maxReplicas"]
        [worker] = groups["gpu"]["template"]["spec"]["containers"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"]
        for pod in pods(spec):
            [container] = pod["containers"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert set(volumes) == {volume["name"] for volume in mounts.values()}
            assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
            assert "restartPolicy" not in pod, "autoscaler v2 wants Never, and sets it"
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["terminationGracePeriodSeconds"] >= 120 and "preStop" in container["lifecycle"]
            assert {"secretRef": {"name": "clray-object-store", "optional": True}} in container["envFrom"]


def test_a_retry_goes_on_and_a_finished_job_leaves_nothing(manifests) -> None:
    job = manifests["RayJob", "clray-stream"]["spec"]
    assert job["backoffLimit"] >= 1
    assert job["shutdownAfterJobFinishes"] is True and job["ttlSecondsAfterFinished"] > 0
    assert job["activeDeadlineSeconds"] > 3600
    assert job["suspend"] is False


def test_the_parts_find_each_other(manifests, pods) -> None:
    job = manifests["RayJob", "clray-stream"]["spec"]
    words = shlex.split(job["entrypoint"])
    settings = dict(word.split("=", 1) for word in words if re.match(r"[a-z_.]+=", word))
    service = manifests["Service", "mlflow"]["spec"]
    tracking = urlsplit(settings["tracking"])
    assert (tracking.scheme, tracking.hostname, tracking.port) == ("http", "mlflow", service["ports"][0]["port"])

    server = manifests["Deployment", "mlflow"]["spec"]["template"]
    assert service["selector"].items() <= server["metadata"]["labels"].items()
    [container] = server["spec"]["containers"]
    options = dict(word[2:].split("=", 1) for word in container["command"] if word.startswith("--"))
    assert service["ports"][0]["targetPort"] == container["ports"][0]["containerPort"] == int(options["port"])
    assert f"mlflow:{tracking.port}" in options["allowed-hosts"].split(",")
    assert options["backend-store-uri"].startswith(f"sqlite:///{container['volumeMounts'][0]['mountPath']}/")

    head = pods(job["rayClusterSpec"])[0]["containers"][0]
    mounts = [mount["mountPath"] for mount in head["volumeMounts"]]
    assert words[:2] == ["clray", "run"] and str(Path(words[2]).parent) in mounts
    assert any(settings["storage"].startswith(mount + "/") for mount in mounts)

    claims = {name for kind, name in manifests if kind == "PersistentVolumeClaim"}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in [*pods(job["rayClusterSpec"]), server["spec"]]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims


def test_the_mlflow_server_knows_its_options(manifests) -> None:
    from mlflow.cli import cli

    [container] = manifests["Deployment", "mlflow"]["spec"]["template"]["spec"]["containers"]
    program, command, *options = container["command"]
    assert program == "mlflow"
    context = cli.commands[command].make_context(command, list(options))
    assert (context.params["host"], context.params["port"], context.params["workers"]) == ("0.0.0.0", 5000, "1")
