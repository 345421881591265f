"""Exported generations, loaded in a process without clray: the same logits, merged or as an adapter."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

import clray
from clray.errors import ModelError, StorageError, UserError
from clray.exporting import find
from clray.lineage.finding import by_key
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.models.loading import load_model, load_tokenizer, tokenizer_digest, trainable_model
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines

TEXT = "the red cat sings"
LOAD = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

found = {}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("the red cat sings", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
    found[folder] = {"ids": ids.tolist(), "logits": logits.float().tolist(), "dtype": str(model.dtype)}
assert "clray" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory):
    """A stream whose first two stages are in the store: full weights, and an adapter on top. The third is not."""
    folder = tmp_path_factory.mktemp("export")
    write_lines(folder / "text.jsonl", [{"text": t} for t in texts(20)])
    stream = loading.loads(f"""
name: exported
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
stages:
  - {{name: law, kind: pretrain, data: {folder}/text.jsonl}}
  - {{name: "7", kind: pretrain, data: {folder}/text.jsonl, method: {{adapter: {{kind: lora, rank: 4}}}}}}
  - {{name: later, kind: pretrain, data: {folder}/text.jsonl}}
""")
    plan = make_plan(stream)
    for planned in plan.lines[0].stages[:2]:
        parent = plan.store.generation(planned.parent)
        adapter = planned.recipe.resolved["adapter"]
        model, below = trainable_model(plan.store, parent, adapter, "fp32", "auto", False)
        torch.manual_seed(planned.index)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn_like(parameter)
        weights = folder / planned.key
        model.save_pretrained(weights)
        digests = plan.store.upload(weights, f"generations/{planned.key}/weights")
        plan.store.commit(
            Generation(
                key=planned.key,
                parent=planned.parent,
                index=planned.index,
                stage_name=planned.stage.name,
                base=below or planned.key,
                adapter=adapter if below else None,
                stage=planned.recipe.resolved,
                files={f"weights/{name}": value for name, value in digests.items()},
                created=f"2026-11-0{planned.index}",
            )
        )
    return stream


@pytest.fixture(scope="module")
def exported(stream, tmp_path_factory):
    """Name -> (folder, what a process without clray finds there)."""
    out = tmp_path_factory.mktemp("out")
    law, top = find(stream, "law"), find(stream, "7")
    made = {
        "complete": clray.export(stream.storage, law, out / "complete"),
        "merged": clray.export(stream.storage, top.key[:8], out / "merged"),
        "bf16": clray.export(stream.storage, top, out / "bf16", precision="bf16"),
        "adapter": clray.export(stream.storage, top, out / "adapter", adapter=True),
    }
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, *map(str, made.values())], capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout.splitlines()[-1])
    return {name: (folder, found[str(folder)]) for name, folder in made.items()}


def logits(stream, generation, precision="fp32"):
    """What clray's own model of the generation says."""
    store = Store(stream.storage)
    encoder = load_tokenizer(store, tokenizer_digest(store, generation.key))
    ids = encoder(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids.tolist(), load_model(store, generation.key, precision).eval()(ids).logits.float()


@pytest.mark.parametrize(("name", "stage"), [("complete", "law"), ("merged", "7"), ("adapter", "7")])
def test_the_logits_are_those_of_clray(exported, stream, name, stage):
    ids, expected = logits(stream, find(stream, stage))
    found = exported[name][1]
    assert found["ids"] == ids and found["dtype"] == "torch.float32"
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, atol=1e-5, rtol=1e-5)


def test_the_stages_differ(exported):
    assert exported["complete"][1]["logits"] != exported["merged"][1]["logits"]


def test_bf16_is_rounded_once_after_merging(exported, stream):
    _, expected = logits(stream, find(stream, "7"))
    found = exported["bf16"][1]
    assert found["dtype"] == "torch.bfloat16"
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, atol=0.03, rtol=0.03)
    assert (exported["bf16"][0] / "model.safetensors").stat().st_size < 0.7 * (
        exported["merged"][0] / "model.safetensors"
    ).stat().st_size


def test_the_note_holds_key_lineage_and_digests(exported, stream):
    folder, top = exported["merged"][0], find(stream, "7")
    note = json.loads((folder / "clray.json").read_text())
    assert note["key"] == top.key and note["form"] == "merged" and note["precision"] == "fp32"
    assert [(each["index"], each["stage"]) for each in note["lineage"]] == [(2, "7"), (1, "law"), (0, "base")]
    assert set(note["files"]) | {"clray.json"} == {p.name for p in folder.iterdir()}
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_an_adapter_stands_on_the_base_beside_it(exported, stream):
    folder = exported["adapter"][0]
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder / "base")
    note = json.loads((folder / "clray.json").read_text())
    assert note["base"] == {"key": find(stream, "law").key, "model": "base"}
    assert "base/model.safetensors" in note["files"] and "adapter_model.safetensors" in note["files"]


def test_an_adapter_on_a_model_of_the_hub_names_it(stream, tmp_path):
    store, top = Store(stream.storage), find(stream, "7")
    root = find(stream, "base")
    hub = {**root.training, "source": "some-org/some-model", "revision": "0123abc"}
    store.commit(dataclasses.replace(root, training=hub))
    store.commit(dataclasses.replace(top, base=root.key))
    try:
        folder = clray.export(stream.storage, top.key, tmp_path / "out", adapter=True)
    finally:
        store.commit(root)
        store.commit(top)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("some-org/some-model", "0123abc")
    assert not (folder / "base").exists()


def test_a_generation_is_found_by_key_stage_index_or_as_the_newest(stream):
    keys = make_plan(stream).lines[0].keys
    assert [find(stream, name).key for name in ("base", "law", "7", "0", "1", "2", "newest")] == [
        *keys[:3], *keys[:3], keys[2],
    ]  # fmt: skip
    assert find(stream, keys[1][:6]).key == keys[1]
    with pytest.raises(ModelError, match=r"'later' of stream 'exported' is not built yet; there are .*\(2: 7\)"):
        find(stream, "later")
    with pytest.raises(ModelError, match=r"no generation 'zzz' in storage .*; there are .*\(0: base\)"):
        find(stream, "zzz")
    with pytest.raises(ModelError, match="'' begins several keys"):
        by_key(Store(stream.storage), "")


def test_what_is_refused(stream, tmp_path):
    with pytest.raises(ModelError, match="complete weights and no adapter; export it merged"):
        clray.export(stream.storage, find(stream, "law"), tmp_path / "a", adapter=True)
    with pytest.raises(UserError, match="leave --precision out"):
        clray.export(stream.storage, find(stream, "7"), tmp_path / "a", adapter=True, precision="bf16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(StorageError, match=r"'.*mine' (is there and not empty|holds no clray.json)"):
            clray.export(stream.storage, find(stream, "law"), tmp_path / "mine", force=force)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


def test_a_former_export_is_replaced_when_forced(stream, tmp_path):
    first = clray.export(stream.storage, find(stream, "law"), tmp_path / "out")
    (first / "stale.txt").write_text("of the first")
    with pytest.raises(StorageError, match="--force to replace a former export"):
        clray.export(stream.storage, find(stream, "base"), first)
    clray.export(stream.storage, find(stream, "base"), first, force=True)
    assert json.loads((first / "clray.json").read_text())["key"] == find(stream, "base").key
    assert not (first / "stale.txt").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_altered_weights_are_not_exported_and_leave_nothing(stream, tmp_path):
    law = find(stream, "law")
    weights = Store(stream.storage).weights(law.key) / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StorageError, match=r"model.safetensors is missing or altered"):
            clray.export(stream.storage, law, tmp_path / "out")
    finally:
        weights.write_bytes(content)
    assert not list(tmp_path.iterdir())
