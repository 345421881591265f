"""Exported stacks of blocks, loaded in a process where clray cannot be imported: the same weights, logits and text."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from block_models import FAMILIES, NEW, OLD, SIZE, VOCABULARY, bare, ids_of, stacked
from command import run
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import clray
from clray.errors import ModelError, UserError
from clray.lineage.generation import Generation
from clray.lineage.store import Store, file_digest
from clray.models import stacks
from clray.models.block_export import merged
from clray.models.blocks import attach
from clray.models.loading import load_model
from clray.models.plain_code import Gathered, selecting_code
from clray.models.routing import routed
from clray.models.stack_export import block_stages

STAGES = ["law", "2", "poems"]
ATTENTION = [[1.0], [0.75, 0.25], [0.125, 0.375, 0.5]]
WORDS = [f"w{i}" for i in range(VOCABULARY - 2)]
OUTSIDE = """
import json, sys
class NoClray:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "clray":
            raise ImportError("clray is not there")
sys.meta_path.insert(0, NoClray())
try:
    import clray
    raise SystemExit("clray is there")
except ImportError:
    pass
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

asked, out = json.loads(sys.argv[1]), sys.argv[2]
batch = load_file(sys.argv[3])
prompt_mask = batch.pop("prompt_mask")
found = {}

def look(name, model, generate):
    with torch.no_grad():
        found[f"{name}.logits"] = model(**batch).logits.float()
    if hasattr(model, "lora_blocks"):
        found[f"{name}.weights"] = model.lora_blocks.routing.weights
    if generate:
        how = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
        found[f"{name}.greedy"] = model.generate(**batch, **how)
        found[f"{name}.uncached"] = model.generate(**batch, **how, use_cache=False)
        found[f"{name}.beams"] = model.generate(**batch, **how, num_beams=2)

for name, folder in asked["selecting"].items():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    look(name, model, True)
    with sys.modules[type(model).__module__].routed(model, prompt_mask):
        look(f"{name}.prompted", model, False)
    encoder = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found[f"{name}.ids"] = encoder("w3 w1 w4", return_tensors="pt")["input_ids"]
    low = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16).eval()
    look(f"{name}.bf16", low, False)
    assert low.lora_blocks.attention.down.dtype == torch.float32, low.lora_blocks.attention.down.dtype
model.save_pretrained(asked["again"])
look("again", AutoModelForCausalLM.from_pretrained(asked["again"], trust_remote_code=True).eval(), False)
for name, folder in asked["plain"].items():
    look(name, AutoModelForCausalLM.from_pretrained(folder).eval(), False)
try:
    AutoModelForCausalLM.from_pretrained(folder := next(iter(asked["selecting"].values())))
    raise SystemExit("it loaded without being trusted")
except ValueError as error:
    assert "trust_remote_code" in str(error)
assert "clray" not in sys.modules
save_file({name: value.contiguous().clone() for name, value in found.items()}, out)
"""


def left_padded():
    """Three rows of 9, 6 and 4 tokens, padded on the left."""
    ids, mask = ids_of(3), torch.ones(3, 9, dtype=torch.long)
    for row, padding in enumerate((0, 3, 5)):
        ids[row, :padding] = mask[row, :padding] = 0
    return {"input_ids": ids, "attention_mask": mask}


def prompts():
    """Of the rows' tokens, all but the last two."""
    mask = left_padded()["attention_mask"].clone()
    mask[:, -2:] = 0
    return mask


def commit(store, key, folder, **facts):
    digests = store.upload(folder, f"generations/{key}/weights")
    files = {f"weights/{name}": value for name, value in digests.items()}
    store.commit(Generation(key=key, files=files, created=f"2026-11-0{facts['index']}", **facts))


def built(folder, family, kind="sapt", base_precision="fp32"):
    """The key of the last of three generations of one block each, on a random model of the family; and their store."""
    store = Store(str(folder / "store"))
    base = bare(family)
    base.to(torch.bfloat16 if base_precision == "bf16" else torch.float32).save_pretrained(folder / "base")
    vocabulary = {word: number for number, word in enumerate(["<pad>", *WORDS, "<end>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
    tokenizer.save_pretrained(folder / "tokenizer")
    store.upload(folder / "tokenizer", "tokenizers/words")
    training = {"tokenizer_digest": "words", "source": str(folder / "base"), "revision": None}
    commit(store, "root", folder / "base", parent=None, index=0, stage_name="base", base="root", training=training)
    model, parent = stacked(family, attention=kind == "sapt"), "root"
    table = load_model(store, "root", "fp32")
    memory = [(torch.randn(4, SIZE), torch.tensor(attention)) for attention in ATTENTION] if kind == "sapt" else []
    (folder / "blocks").mkdir()
    model.lora_blocks.memory = []
    stacks.save(model, folder / "blocks", None, stacks.table_digest(table), memory)
    adapter = {"kind": kind, "targets": FAMILIES[family][1]}
    for index, stage in enumerate(STAGES, 1):
        facts = {"parent": parent, "index": index, "stage_name": stage, "base": "root", "adapter": adapter}
        parent = f"{kind}{index}"
        commit(store, parent, folder / "blocks", **facts)
    return store, parent


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Name -> (store, key): three sapt blocks for each family; on weights in bf16; and blocks that are summed."""
    made = {family: built(tmp_path_factory.mktemp(family), family) for family in FAMILIES}
    made["low"] = built(tmp_path_factory.mktemp("low"), "llama", base_precision="bf16")
    made["sum"] = built(tmp_path_factory.mktemp("sum"), "llama", "olora")
    return made


@pytest.fixture(scope="module")
def outside(stores, tmp_path_factory):
    """What a process without clray finds in the exported folders, by name; and the folder of these."""
    out = tmp_path_factory.mktemp("out")
    selecting, plain = {}, {}
    for name, (store, key) in stores.items():
        if name == "sum":
            plain["sum"] = clray.export(store.root, key, out / "sum")
        else:
            selecting[name] = clray.export(store.root, key, out / name)
        if name in ("llama", "gpt2"):
            for number, stage in enumerate(STAGES, 1):
                plain[f"{name}.task{number}"] = clray.export(store.root, key, out / f"{name}-{number}", task=stage)
        if name in ("llama", "gpt2", "sum"):
            folder = clray.export(store.root, key, out / f"{name}-blocks", adapter=True)
            for number, stage in enumerate(STAGES, 1):
                plain[f"{name}.block{number}"] = folder / "blocks" / f"{number:02d}-{stage}"
    save_file(left_padded() | {"prompt_mask": prompts()}, out / "batch.safetensors")
    asked = {"selecting": selecting, "plain": plain, "again": out / "again"}
    ran = subprocess.run(
        [
            *(sys.executable, "-I", "-c", OUTSIDE, json.dumps(asked, default=str)),
            *(str(out / "found.safetensors"), str(out / "batch.safetensors")),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_MODULES_CACHE": str(out / "modules")},
    )
    assert ran.returncode == 0, ran.stderr
    return load_file(out / "found.safetensors"), out


def logits(model):
    with torch.no_grad():
        return model(**left_padded()).logits.float()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_selecting_folder_gives_exactly_what_clray_gives(outside, stores, family):
    """Weights, logits, and greedy text, to the bit; with and without a cache, in bf16, with beams."""
    found, _ = outside
    store, key = stores[family]
    model, batch = load_model(store, key).eval(), left_padded()
    assert torch.equal(found[f"{family}.logits"], logits(model))
    weights = model.lora_blocks.routing.weights
    assert torch.equal(found[f"{family}.weights"], weights)
    assert (weights[0] - weights[1]).abs().max() > 0.05, "all prompts select alike"
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    greedy = model.generate(**batch, **how)
    assert torch.equal(found[f"{family}.greedy"], greedy) and torch.equal(found[f"{family}.uncached"], greedy)
    assert torch.equal(found[f"{family}.beams"], model.generate(**batch, **how, num_beams=2))
    with routed(model, batch["attention_mask"]):
        assert torch.equal(model.generate(**batch, **how, use_cache=False), greedy)
    with routed(model, prompts()):
        assert torch.equal(found[f"{family}.prompted.logits"], logits(model))
    low = load_model(store, key, "bf16").eval()
    assert torch.equal(found[f"{family}.bf16.logits"], logits(low))
    assert torch.equal(found[f"{family}.bf16.weights"], low.lora_blocks.routing.weights)
    assert (logits(bare(family)) - logits(model)).abs().max() > 0.05, "the blocks change nothing"


def test_blocks_on_bf16_weights_keep_their_own_precision(outside, stores):
    found, out = outside
    store, key = stores["low"]
    assert json.loads((out / "low" / "clray.json").read_text())["precision"] == "bf16"
    saved, blocks = load_file(out / "low" / "model.safetensors"), stacks.read(store.weights(key)).tensors
    path = "model.layers.0.self_attn.q_proj"
    assert saved[f"{path}.base.weight"].dtype == torch.bfloat16
    assert torch.equal(saved[f"{path}.old_A"], blocks[f"{path}.A"]) and blocks[f"{path}.A"].dtype == torch.float32
    assert torch.equal(found["low.logits"], logits(load_model(store, key, "bf16").eval()))


def test_a_selecting_folder_is_whole_and_says_what_it_is(outside, stores):
    found, out = outside
    note = json.loads((out / "llama" / "clray.json").read_text())
    assert note["form"] == "selecting" and note["blocks"] == STAGES and note["key"] == stores["llama"][1]
    files = {path.name for path in (out / "llama").iterdir()}
    assert files == {*note["files"], "clray.json"} and "modeling_selecting.py" in files
    assert {name.rpartition(".")[2] for name in files} <= {"json", "py", "safetensors", "md", "jinja"}
    settings = json.loads((out / "llama" / "config.json").read_text())
    assert settings["auto_map"]["AutoModelForCausalLM"] == "modeling_selecting.SelectingLlamaForCausalLM"
    assert settings["lora_blocks"]["stages"] == STAGES
    assert "trust_remote_code=True" in (out / "llama" / "README.md").read_text()
    assert found["llama.ids"].tolist() == [[4, 2, 5]]
    assert torch.equal(found["again.logits"], found["low.logits"]), "saved again by transformers"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_is_one_readable_file_of_torch_and_transformers(family, tmp_path):
    code = selecting_code(bare(family))
    tree = ast.parse(code)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert roots == {"torch", "transformers"}
    assert code.startswith("# ") and "Written by `clray export`" in code
    (tmp_path / "modeling.py").write_text(code)
    for how in (["check", "--select", "E,F,I,B,UP,SIM"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *how, "--isolated", "--line-length", "120", str(tmp_path / "modeling.py")]
        assert subprocess.run(ruff, check=False).returncode == 0


def test_definitions_are_the_sources_own():
    gathered = Gathered()
    gathered.take("clray.models.routing", "routed")
    assert gathered.taken["Prompts"] == "clray.models.routing" and "before_forward" not in gathered.taken
    assert gathered.outside >= {("typing", "Any"), ("", "torch")}
    gathered.taken["nn"] = "elsewhere"
    with pytest.raises(AssertionError, match="nn is of elsewhere and of torch"):
        gathered.take("clray.models.attention", "SharedAttention")


def test_a_class_of_another_package_is_refused():
    model = bare()
    model.__class__ = type("OwnLlama", (LlamaForCausalLM,), {})
    with pytest.raises(ModelError, match=r"OwnLlama is no class of transformers.*--adapter, or one task with --task"):
        selecting_code(model)


class Fixed(torch.nn.Module):
    """An attention that gives every row the same weights."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.tensor([weights])

    def forward(self, pooled):
        return self.weights.expand(len(pooled), -1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_merged_model_of_a_task_is_the_blocks_at_its_recorded_attention(outside, stores, family):
    found, out = outside
    store, key = stores[family]
    for number, recorded in enumerate(ATTENTION, 1):
        weights = [*recorded, 0.0, 0.0][:3]
        model = load_model(store, key).eval()
        model.lora_blocks.attention = Fixed(weights)
        torch.testing.assert_close(found[f"{family}.task{number}.logits"], logits(model), atol=1e-4, rtol=1e-4)
        note = json.loads((out / f"{family}-{number}" / "clray.json").read_text())
        assert (note["form"], note["task"], note["weights"]) == ("merged-for-task", STAGES[number - 1], weights)
    assert not (out / f"{family}-1" / "modeling_selecting.py").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2", "sum"])
def test_each_block_alone_is_a_peft_adapter_on_the_base_beside_it(outside, stores, name):
    found, out = outside
    store, key = stores[name]
    for number in (1, 2, 3):
        model = load_model(store, "root").eval()
        stack = stacks.read(store.weights(key))
        attach(model, stack.targets, stack.shapes, None, stack.tensors, attention=stack.attended)
        merged(model, [float(number == each) for each in (1, 2, 3)])
        torch.testing.assert_close(found[f"{name}.block{number}.logits"], logits(model), atol=1e-4, rtol=1e-4)
        folder = out / f"{name}-blocks" / "blocks" / f"0{number}-{STAGES[number - 1]}"
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(out / f"{name}-blocks" / "base")
        assert settings["r"] == [*OLD, NEW][number - 1].rank
    note = json.loads((out / f"{name}-blocks" / "clray.json").read_text())
    assert note["form"] == "adapters" and note["base"] == {"key": "root", "model": "base"}
    assert note["blocks"] == ["blocks/01-law", "blocks/02-2", "blocks/03-poems"]
    assert (out / f"{name}-blocks" / "tokenizer.json").is_file()


def test_blocks_that_are_summed_are_merged(outside, stores):
    found, out = outside
    store, key = stores["sum"]
    torch.testing.assert_close(found["sum.logits"], logits(load_model(store, key).eval()), atol=1e-5, rtol=1e-5)
    assert json.loads((out / "sum" / "clray.json").read_text())["form"] == "merged"
    assert (found["sum.logits"] - logits(bare())).abs().max() > 0.05


def test_a_task_is_a_stage_or_the_number_of_a_block(stores, tmp_path):
    """A stage whose name is a number comes before the number: the second block's stage is called 2."""
    store, key = stores["llama"]
    assert block_stages(store, store.generation(key)) == STAGES
    assert block_stages(store, store.generation("sapt2")) == STAGES[:2]
    for task, stage in ((1, "law"), ("2", "2"), (3, "poems")):
        note = clray.export(store.root, key, tmp_path / stage, task=task, precision="bf16") / "clray.json"
        assert json.loads(note.read_text())["task"] == stage
    with pytest.raises(ModelError, match="not taught a task 'verse'; it has blocks of 1: law, 2: 2, 3: poems"):
        clray.export(store.root, key, tmp_path / "a", task="verse")
    with pytest.raises(UserError, match="--task merges the blocks and --adapter keeps them apart"):
        clray.export(store.root, key, tmp_path / "a", task="law", adapter=True)
    for name, other in (("llama", "root"), ("sum", stores["sum"][1])):
        with pytest.raises(ModelError, match=r"no blocks that prompts select from .* export it without --task"):
            clray.export(stores[name][0].root, other, tmp_path / "a", task="law")
    assert not (tmp_path / "a").exists()


def test_a_task_without_recorded_attention_is_refused(stores, tmp_path):
    store, key = built(tmp_path, "llama")
    note = store.weights(key) / "blocks.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"remembered": 1}))
    made = store.generation(key)
    made = dataclasses.replace(made, files={**made.files, "weights/blocks.json": file_digest(note)})
    with pytest.raises(ModelError, match="holds no recorded attention of the task 'poems'"):
        clray.export(store.root, made, tmp_path / "out", task="poems")


def test_the_command_says_what_it_wrote_or_which_tasks_there_are(stores, tmp_path, capsys):
    store, key = stores["llama"]
    stream = tmp_path / "stream.yaml"
    stage = "{name: law, kind: pretrain, data: none.jsonl}"
    stream.write_text(f"name: told\nmodel: {{base: none}}\nstorage: {store.root}\nstages: [{stage}]\n")
    for task, expected in (("poems", f"wrote {tmp_path}/out\n"), ("verse", "it has blocks of 1: law, 2: 2, 3: poems")):
        code, out, said = run(capsys, "export", stream, key, "--out", tmp_path / "out", "--task", task, "--force")
        assert expected in out + said and code == (2 if task == "verse" else 0)
    assert json.loads((tmp_path / "out" / "clray.json").read_text())["task"] == "poems"
