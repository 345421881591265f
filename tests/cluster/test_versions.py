"""Every version that is written down in `cluster/` is the project's, and nothing there looks like a secret."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml


def versions(texts: dict[str, str], pattern: str) -> dict[str, set[str]]:
    """What the pattern's group finds, by file."""
    found = {path: set(re.findall(pattern, text)) for path, text in texts.items()}
    return {path: values for path, values in found.items() if values}


def test_image_tags_are_the_projects_version(texts, root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    tags = versions(texts, r"clray:(\d[^\s\"'#]*)")
    assert set().union(*tags.values()) <= {f"{version}-cpu", f"{version}-cuda", version}
    assert {"Dockerfile", "README.md", "kuberay/rayjob.yaml", "kuberay/raycluster.yaml", "kuberay/storage.yaml"} <= set(
        tags
    )
    assert {"launcher/aws.yaml", "launcher/gcp.yaml", "launcher/local.yaml"} <= set(tags)


def test_ray_is_the_projects_ray(texts, pinned) -> None:
    found = versions(texts, r"(?:rayproject/ray:|rayVersion: \"|\bRay )(\d+\.\d+(?:\.\d+)?)")
    assert set().union(*found.values()) == {pinned["ray"]}
    assert {"Dockerfile", "README.md", "kuberay/rayjob.yaml", "kuberay/raycluster.yaml"} <= set(found)


def test_python_is_the_projects_python(texts, python_version, root: Path) -> None:
    found = versions(texts, r"(?:[Pp]ython |python|-py)(3\.?\d+)\b")
    plain = {value.replace(".", "") for values in found.values() for value in values}
    assert plain == {python_version.replace(".", "")}
    low, high = re.findall(
        r"3\.(\d+)", tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    assert int(low) <= int(python_version.split(".")[1]) < int(high)


def test_pytorch_is_the_projects_pytorch(texts, pinned) -> None:
    found = versions(texts, r"PyTorch (\d+\.\d+)")
    assert set().union(*found.values()) == {pinned["torch"].rpartition(".")[0]}


SECRET = [
    r"AKIA[0-9A-Z]{16}",
    r"-----BEGIN",
    r"(?i)(?:password|passwd|secret|token|api_?key|access_?key)\w*[\"']?\s*[:=]\s*[\"']?(?!\$)[A-Za-z0-9+/_]{12,}",
    r"[a-z0-9+]+://[^/\s\"']*:[^/\s\"'@]*@",
]


def test_nothing_looks_like_a_secret(texts) -> None:
    for path, text in texts.items():
        for pattern in SECRET:
            assert not re.search(pattern, text), (path, pattern)
    assert re.search(SECRET[2], "aws_secret_access_key: 'wJalrXUtnFEMIK7MDENG'")
    assert re.search(SECRET[3], "s3://key:word@bucket/path")


def test_no_secret_stands_in_an_environment(texts) -> None:
    named = re.compile(r"KEY|SECRET|PASSWORD|TOKEN")

    def walk(value: object) -> None:
        if isinstance(value, dict):
            assert not ("value" in value and named.search(str(value.get("name", ""))))
            assert not (value.get("kind") == "Secret" and {"data", "stringData"} & set(value))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for path, text in texts.items():
        if path.endswith(".yaml"):
            for document in yaml.safe_load_all(text):
                walk(document)
