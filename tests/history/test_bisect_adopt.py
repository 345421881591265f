"""Where a task broke, measured where it must be; models and adapters that come from elsewhere."""

import json
import math
from pathlib import Path

import pytest

from clray.history.adopt import adopt
from clray.history.archive import Archive
from clray.history.bisect import first_broken
from clray.lineage.store import Store


def search(true, known, limit=0.5):
    """What first_broken finds where the true scores are measured on demand, and which numbers it measured."""
    asked = []

    def measure(number):
        asked.append(number)
        return true[number]

    scores = [score if number in known else None for number, score in enumerate(true)]
    return first_broken(scores, lambda score: score < limit, measure), asked


def test_halves_are_measured_until_the_break_is_found():
    """Sixteen generations, broken from number 11 on: 1, 15 known; 8, 12?, ... in four steps, not thirteen."""
    true = [0.1] + [0.9] * 10 + [0.2] * 5
    found, asked = search(true, {1, 15})
    assert found == 11 and len(asked) <= math.ceil(math.log2(14)) and set(asked) <= set(range(2, 15))


def test_all_measured_needs_nothing():
    assert search([0.1, 0.9, 0.4, 0.8, 0.3], set(range(5))) == (2, [])


def test_the_newest_is_measured_first_and_a_good_one_is_sought_from_there_back():
    assert search([0.1, 0.9, 0.9, 0.9], {1}) == (None, [3])
    assert search([0.1, 0.9, 0.3, 0.2], set()) == (2, [3, 2, 1])
    assert search([0.1, 0.2], set()) == (None, [1, 0])


@pytest.mark.ray
@pytest.mark.slow
def test_missing_scores_are_measured_on_the_way(copied, outcome, keys, clray):
    store = Store(copied)
    column = outcome.matrix.tasks.index("text")
    scores = [row[column] for row in outcome.matrix.R]
    [digest] = [d for d, (name, *_) in Archive(copied, "none").entries[0].scores.items() if name == "text"]
    limit = (max(scores[1], scores[3]) + max(scores[0], scores[1])) / 2  # above all but the base model
    for key in keys[1:3]:
        store.delete(f"scores/{key}/{digest}.json")
    code, shown, said = clray("bisect", "text", "--above", str(limit), "--storage", copied, "--json")
    found = json.loads(shown)
    assert code == 0 and found["broke"] is None and found["measured"] == [], said
    low = (scores[1] + scores[3]) / 2
    if scores[3] > scores[1]:  # the later stages cost bits: measured anew, they say where
        found = json.loads(clray("bisect", "text", "--above", str(low), "--storage", copied, "--json")[1])
        assert set(found["measured"]) <= set(keys[1:3]) and found["measured"]
        first = next(n for n in (2, 3) if scores[n] > low)
        assert found["broke"] == keys[first] and found["before"] == keys[first - 1]
        assert [cell["score"] for cell in found["scores"] if cell["key"] in found["measured"]] == [
            scores[keys.index(key)] for key in keys if key in found["measured"]
        ]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["text", "--below", "1"],
            "task 'text' is measured in bits_per_byte, where less is better; give --above LIMIT",
        ),
        (["last"], "task 'last' is measured in accuracy, where more is better; give --below LIMIT alone"),
        (["last", "--below", "1.5"], "task 'last' was never at or above 1.5"),
        (["poems", "--below", "1"], "task 'poems' was never measured"),
    ],
)
def test_what_cannot_be_bisected(storage, clray, arguments, expected):
    code, out, said = clray("bisect", *arguments, "--storage", storage)
    assert code == 2 and expected in said and not out


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A LoRA adapter of the tiny model, made with PEFT alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    made = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_model_becomes_the_root_that_a_stream_over_it_has(tiny_model, tmp_path, clray):
    from clray.models.base import prepare_base
    from clray.spec import loading

    store = Store(str(tmp_path / "store"))
    made = json.loads(clray("adopt", tiny_model, "--storage", store.root, "--stream", "found", "--json")[1])
    spec = f"name: s\nmodel: {{base: {tiny_model}}}\nstages: [{{name: a, kind: pretrain, data: 'builtin:docs'}}]"
    assert prepare_base(loading.loads(spec), store, "").generation.key == made["key"]
    assert made["parent"] is None and made["index"] == 0
    assert json.loads(clray("adopt", tiny_model, "--storage", store.root, "--json")[1])["key"] == made["key"]
    code, shown, _ = clray("show", made["key"][:8], "--storage", store.root)
    assert code == 0 and "found version 1" in shown
    assert clray("verify", "--storage", store.root)[0] == 0


def test_an_adapter_stands_on_the_model_that_it_names(tiny_model, adapter, tmp_path, clray):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from clray.models.loading import load_model

    store = Store(str(tmp_path / "store"))
    code, shown, said = clray("adopt", adapter, "--storage", store.root, "--name", "support")
    assert code == 0 and shown.startswith("support ") and "generation 1, child" in shown, said
    root, made = store.generations()
    assert made.parent == root.key == made.base and made.adapter["rank"] == 2 and root.parent is None
    tokens = torch.arange(20)[None]
    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)(tokens).logits
    torch.testing.assert_close(load_model(store, made.key)(tokens).logits, wanted, atol=1e-5, rtol=1e-4)
    assert clray("verify", "--storage", store.root)[0] == 0
    assert adopt(store.root, str(adapter), parent=root.key).key == made.key
    assert "├─" not in clray("log", "--storage", store.root)[1]
    code, _, said = clray("reproduce", made.key, "--storage", store.root)
    assert code == 2 and "was not trained here" in said
    code, _, said = clray("adopt", adapter, "--parent", made.key, "--storage", store.root)
    assert code == 2 and "is an adapter itself" in said and root.key[:10] in said


def test_a_model_becomes_a_child(tiny_model, tmp_path, clray):
    import shutil

    from safetensors.torch import load_file, save_file

    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_model, tuned)
    weights = load_file(tuned / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, tuned / "model.safetensors", {"format": "pt"})
    root = adopt(str(tmp_path / "store"), str(tiny_model))
    made = json.loads(clray("adopt", tuned, "--parent", root.key, "--storage", tmp_path / "store", "--json")[1])
    assert made["parent"] == root.key and made["base"] == made["key"] != root.key and made["adapter"] is None
    assert clray("verify", "--storage", tmp_path / "store")[0] == 0


def test_what_is_not_adopted(tiny_model, adapter, tmp_path, clray):
    import shutil

    root = adopt(str(tmp_path / "store"), str(tiny_model))
    store = ["--storage", tmp_path / "store"]

    def refused(*arguments):
        code, out, said = clray("adopt", *arguments, *store)
        assert code == 2 and not out and "Traceback" not in said
        return said

    assert "is not a folder" in refused(tmp_path / "nowhere")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    assert "of type IA3; LORA alone can be adopted" in refused(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    assert "names no base model" in refused(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "has no *.safetensors weights (clray unpickles nothing)" in refused(adapter, "--parent", root.key)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    assert "has another tokenizer than base" in refused(other, "--parent", root.key)
    assert "no generation '0000'" in refused(other, "--parent", "0000")
    assert len(list(Path(tmp_path, "store", "generations").iterdir())) == 1


def test_an_adapter_of_another_model_is_refused(adapter, tiny_model, tmp_path, clray):
    from safetensors.torch import load_file, save_file

    root = adopt(str(tmp_path / "store"), str(tiny_model))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name.replace("q_proj", "qkv"): value for name, value in tensors.items()}, adapter / "adapter_model.safetensors"
    )
    code, _, said = clray("adopt", adapter, "--parent", root.key, "--storage", tmp_path / "store")
    assert code == 2 and "qkv.weight, which base" in said and "does not have" in said
    wide = {n: v.repeat(1, 2).contiguous() if "lora_A" in n else v for n, v in tensors.items()}
    save_file(wide, adapter / "adapter_model.safetensors")
    code, _, said = clray("adopt", adapter, "--parent", root.key, "--storage", tmp_path / "store")
    assert code == 2 and "fits no weight like" in said
