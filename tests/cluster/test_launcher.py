"""The files of Ray's cluster launcher pass Ray's own checks, and Ray's AWS provider starts machines from its one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

FILES = ["aws", "gcp", "local"]


@pytest.fixture
def configurations(texts) -> dict[str, dict[str, Any]]:
    """Each file as it is written."""
    return {name: yaml.safe_load(texts[f"launcher/{name}.yaml"]) for name in FILES}


def prepared(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration with Ray's defaults, checked by Ray; makes no call to a cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    result = prepare_config(configuration)
    validate_config(result)
    return result


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(configurations, name: str) -> None:
    complete = prepared(configurations[name])
    assert complete["provider"]["type"] == name
    assert complete["max_workers"] >= 2
    assert not any("pip install" in command for command in complete["setup_commands"])


def test_ray_refuses_a_mistake(configurations) -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        prepared({**configurations["aws"], "idle_timeout_minute": 5})


@pytest.mark.parametrize("name", FILES)
def test_the_cluster_is_what_a_stream_needs(configurations, name: str) -> None:
    configuration = configurations[name]
    options = configuration["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert configuration["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    grace = [re.fullmatch(r"--env RAY_JOB_STOP_WAIT_TIME_S=(\d+)", option) for option in options]
    assert [int(found[1]) >= 120 for found in grace if found] == [True]
    head = " ".join(configuration["head_start_ray_commands"])
    assert "ray start --head" in head and "--num-cpus=0" in head
    assert "--dashboard-host" not in head, "the dashboard is reached through ssh alone"
    if name == "local":
        return
    assert "--env CLRAY_AUTOSCALING=1" in options
    types = configuration["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] >= 1 and types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"]


def test_ray_starts_machines_on_aws(configurations, monkeypatch, tmp_path) -> None:
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its ssh key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

        region = configurations["aws"]["provider"]["region"]
        for role in ("clray-head", "clray-worker"):
            boto3.client("iam", region_name=region).create_instance_profile(InstanceProfileName=role)
        complete = bootstrap_aws(prepared(configurations["aws"]))
        detected = AWSNodeProvider.fillout_available_node_types_resources(complete)["available_node_types"]
        assert detected["gpu"]["resources"]["accelerator_type:L4"] == 1
        provider = AWSNodeProvider(complete["provider"], complete["cluster_name"])
        for kind, name in (("head", "head"), ("worker", "gpu")):
            node = complete["available_node_types"][name]["node_config"]
            started = provider.create_node(node, {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}, 1)
            [machine] = started.values()
            assert (
                machine.instance_type
                == configurations["aws"]["available_node_types"][name]["node_config"]["InstanceType"]
            )
        assert len(provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: "gpu"})) == 1


def test_the_roles_script_is_clean_and_makes_the_roles_of_the_file(configurations, texts, shellcheck, root) -> None:
    import subprocess

    script = root / "cluster" / "launcher" / "aws-roles.sh"
    checked = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    made = set(re.findall(r"^make_profile (\S+)", script.read_text(), re.MULTILINE))
    types = configurations["aws"]["available_node_types"].values()
    assert made == {node["node_config"]["IamInstanceProfile"]["Name"] for node in types}
