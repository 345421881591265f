"""The commands, and every mistake of a user: one clear message, exit code 2, nothing half-written."""

import json
import pkgutil
import subprocess
import sys

import pytest
from command import run

import clray
from texts import texts, write_lines

MODULES = "import sys, clray.cli; print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"


@pytest.fixture
def stream(tmp_path, tiny_model):
    write_lines(tmp_path / "text.jsonl", [{"text": t} for t in texts(20)])
    path = tmp_path / "stream.yaml"
    path.write_text(f"""
name: cli
model: {{base: {tiny_model}}}
storage: {tmp_path}/store
sequence_length: 64
stages:
  - {{name: text, kind: pretrain, data: {tmp_path}/text.jsonl}}
""")
    return path


def test_help_and_import_load_neither_torch_nor_ray():
    found = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    helped = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "clray", "--help"], capture_output=True, text=True
    )
    assert "generations" in helped.stdout
    assert not [
        line for line in helped.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "ray", "mlflow")
    ]


def test_no_public_name_is_that_of_a_module():
    modules = {found.name for found in pkgutil.iter_modules(clray.__path__)}
    assert not modules & set(clray.__all__)


def test_init_writes_a_stream_that_plans(tmp_path, capsys):
    assert run(capsys, "init", tmp_path / "new.yaml")[0] == 0
    code, _, said = run(capsys, "init", tmp_path / "new.yaml")
    assert code == 2 and "is there already" in said


def test_schema_prints_json(capsys):
    assert "stages" in json.loads(run(capsys, "schema")[1])["properties"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_commands_one_after_the_other(stream, capsys, ray_cluster, tmp_path):
    overrides = [f"tasks=[{{name: text, scorer: perplexity, data: {tmp_path}/text.jsonl, limit: 5}}]"]
    plan = json.loads(run(capsys, "plan", stream, *overrides, "--json")[1])
    assert plan["to_build"] == 1 and plan["stages"][0]["steps"] > 0
    assert "1 stage to train" in run(capsys, "plan", stream, *overrides)[1]
    code, shown, told = run(capsys, "run", stream, *overrides)
    assert code == 0 and "score matrix: stream" in shown and "training text" in told
    outcome = json.loads(run(capsys, "run", stream, *overrides, "--json")[1])
    assert outcome["lines"][0]["matrix"]["R"][1][0] > 0 and not outcome["lines"][0]["generations"][1]["built"]
    tree = run(capsys, "generations", stream, *overrides)[1]
    assert "text" in tree and "version 2" in tree
    assert len(json.loads(run(capsys, "generations", stream, "--json")[1])) == 2
    assert run(capsys, "evaluate", stream, *overrides)[0] == 0
    code, said, _ = run(capsys, "export", stream, "text", *overrides, "--out", tmp_path / "hf", "--precision", "bf16")
    assert code == 0 and said == f"wrote {tmp_path}/hf\n"
    assert (
        json.loads((tmp_path / "hf" / "clray.json").read_text())["key"]
        == outcome["lines"][0]["matrix"]["generations"][1]
    )
    page = tmp_path / "page.html"
    assert run(capsys, "report", stream, *overrides, "--out", page)[0] == 0
    assert "<html" in page.read_text()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stage=3", "unknown key 'stage'; did you mean 'stages'?"),
        ("seed=many", "'seed': input should be a valid integer; found 'many'"),
        ("model.base=/nowhere/model", "base model '/nowhere/model' is not a folder"),
        ("model.base=no-such-org/no-such-model", "is neither a folder nor to be had from the hub"),
        ("stages.text.data=nowhere.jsonl", "source 'nowhere.jsonl': no such file"),
        ("stages.text.data=builtin:poems", "source 'builtin:poems' is not known; there are docs"),
        ("storage=/proc/clray", "storage '/proc/clray' is not writable"),
        ("tracking=http://127.0.0.1:9", "127.0.0.1:9"),
        ("sequence_length=4096", "is more than the 128 positions of the base model"),
    ],
)
def test_what_is_refused_before_ray_starts(stream, capsys, override, expected):
    code, out, said = run(capsys, "run", stream, override)
    assert code == 2 and expected in said and not out
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stage=3"], "unknown key 'stage'; did you mean 'stages'?"),
        (["storage=clray-store"], "storage 'clray-store' is relative"),
        (["stages.text.data=nowhere.jsonl"], "source 'nowhere.jsonl': no such file"),
        (["--env", "NO_SUCH_VARIABLE"], "--env NO_SUCH_VARIABLE: there is no such variable"),
        ([], "no cluster is named: give --address"),
    ],
)
def test_what_is_refused_before_anything_is_submitted(stream, capsys, monkeypatch, arguments, expected):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    code, out, said = run(capsys, "submit", stream, *arguments)
    assert code == 2 and expected in said and not out
    assert "Traceback" not in said


@pytest.mark.ray
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "bad.jsonl: holds no record"),
        ('{"text": "a"}\n{"text": ', "bad.jsonl:2: not valid JSON"),
        ('{"title": "a"}', "bad.jsonl:1: the record has no 'text'; its fields are title"),
    ],
)
def test_bad_data_is_refused_before_anything_is_spent(stream, capsys, ray_cluster, tmp_path, content, expected):
    (tmp_path / "bad.jsonl").write_text(content)
    code, _, said = run(capsys, "run", stream, f"stages.text.data={tmp_path}/bad.jsonl")
    assert code == 2 and expected in said
    assert not (tmp_path / "store" / "records").exists()
    from clray.lineage.ledger import Ledger

    assert Ledger(f"sqlite:///{tmp_path}/store/mlflow.db", "cli").generations() == []


@pytest.mark.ray
def test_too_many_workers_or_gpus_are_refused_with_both_numbers(stream, capsys, ray_cluster):
    code, _, said = run(capsys, "run", stream, "compute.workers=50", "batch.size=50")
    assert code == 2 and "asks for 51 CPUs" in said and "the cluster has 6" in said
    code, _, said = run(capsys, "run", stream, "compute.gpus_per_worker=1")
    assert code == 2 and "asks for 1 GPUs" in said and "the cluster has 0" in said


def test_a_model_without_safetensors_or_end_token_is_refused(stream, capsys, tiny_model, tmp_path):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    code, _, said = run(capsys, "plan", stream, f"model.base={bare}")
    assert code == 2 and "has no eos_token" in said
    (bare / "model.safetensors").unlink()
    code, _, said = run(capsys, "plan", stream, f"model.base={bare}")
    assert code == 2 and "has no *.safetensors weights" in said


def test_model_code_does_not_run_unless_allowed(stream, capsys, tiny_model, tmp_path):
    import shutil

    sly = tmp_path / "sly"
    shutil.copytree(tiny_model, sly)
    config = json.loads((sly / "config.json").read_text())
    config |= {"model_type": "sly", "auto_map": {"AutoConfig": "sly.Config", "AutoModelForCausalLM": "sly.Model"}}
    (sly / "config.json").write_text(json.dumps(config))
    (sly / "sly.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code, _, said = run(capsys, "plan", stream, f"model.base={sly}")
    assert code == 2 and "trust_remote_code" in said
    assert not (tmp_path / "ran").exists()


def test_json_comes_alone_whatever_else_is_printed(capfd):
    """Ray and C libraries print on standard output now and then; a program that reads --json must not see it."""
    import os

    from clray.cli import _print_json, _quiet_stdout

    with _quiet_stdout(True):
        print("from Python")
        os.write(1, b"from C\n")
    _print_json({"a": 1})
    out, err = capfd.readouterr()
    assert json.loads(out) == {"a": 1}
    assert "from Python" in err and "from C" in err
