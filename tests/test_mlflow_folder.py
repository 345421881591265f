"""The folder `mlflow/` of the repository never stands before the library, and its contract is complete."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.cli import cli

ROOT = Path(__file__).resolve().parents[1]
CODE = "import mlflow; assert hasattr(mlflow, 'MlflowClient'); print(mlflow.__file__)"
JOB = """
import json, os, ray
ray.init(address="{address}", runtime_env={{"working_dir": "{root}"}}, log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0)
def inside():
    import mlflow
    return mlflow.__file__, hasattr(mlflow, "MlflowClient"), os.listdir()

print(json.dumps(ray.get(inside.remote())))
"""


def test_no_python_lies_in_the_folder() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_the_library_is_what_is_imported() -> None:
    assert "site-packages" in (mlflow.__file__ or "")
    assert hasattr(mlflow, "MlflowClient")


@pytest.mark.parametrize(
    "command", [["-c", CODE], ["-m", "pytest", "--version", "-p", "mlflow.version"]], ids=["python", "pytest"]
)
def test_the_library_is_imported_from_the_root_of_the_repository(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-c" not in command or "site-packages" in done.stdout


@pytest.mark.ray
def test_the_library_is_imported_in_a_job_with_the_folder_in_its_working_directory(
    ray_cluster: None, tmp_path: Path
) -> None:
    """Ray puts the working directory first on the path of a job's workers. .rayignore leaves the folder out; here it
    goes along."""
    import ray

    shutil.copytree(ROOT / "mlflow", tmp_path / "mlflow")
    code = JOB.format(address=ray.get_runtime_context().gcs_address, root=tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path, whole, names = json.loads(done.stdout.splitlines()[-1])
    assert "site-packages" in path and whole and names == ["mlflow"]


def options_of(command: str) -> set[str]:
    """The long options of an MLflow command."""
    return {name for parameter in cli.commands[command].params for name in parameter.opts}


@pytest.mark.parametrize("script", ["serve.sh", "serve-postgres.sh", "compose.yaml"])
def test_every_option_given_to_the_server_is_one_of_the_installed_mlflow(script: str) -> None:
    text = (ROOT / "mlflow" / script).read_text(encoding="utf-8")
    if script == "compose.yaml":
        given = {part.partition("=")[0] for part in yaml.safe_load(text)["services"]["mlflow"]["command"][2:]}
    else:
        given = set(re.findall(r"--[a-z-]+", text[text.index("mlflow server --host") :]))
    assert len(given) >= 4 and not given - options_of("server")


def test_the_compose_file_takes_every_secret_from_the_environment_file_and_opens_one_port() -> None:
    text = (ROOT / "mlflow" / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "mlflow" / "server.env.example").read_text(), re.M))
    assert asked == set(example)
    assert not [name for name, value in example.items() if value and ("PASSWORD" in name or "SECRET" in name)]
    services = yaml.safe_load(text)["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow"]
    assert "MLFLOW_DISABLE_TELEMETRY" in services["mlflow"]["environment"]
    built = services["mlflow"]["build"]["dockerfile_inline"]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, version in re.findall(r"([\w-]+)(?:\[auth\])?==([\d.]+)", built):
        assert pinned[name] == version


@pytest.mark.parametrize("script", ["serve.sh", "serve-postgres.sh"])
def test_the_scripts_have_no_complaint_of_shellcheck(script: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, ROOT / "mlflow" / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_names_every_tag_and_metric_that_is_written() -> None:
    schema = (ROOT / "mlflow" / "SCHEMA.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "clray" / "lineage").glob("*.py"))
    written = set(re.findall(r'"(clray\.[a-z_]+|train/[a-z_]+|mlflow\.[a-zA-Z.]+)"', code))
    written |= set(re.findall(r'f"(clray\.[a-z_]+)', code))
    assert len(written) > 15
    assert not {
        name for name in written - {"mlflow.store.db.utils", "mlflow.system_metrics"} if f"`{name}" not in schema
    }
