"""The loop: losses equal plain PyTorch's and transformers.Trainer's, whatever the micro-batch or ZeRO stage."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clray.data.batches import PackedShards, plan_batches
from clray.data.manifest import Manifest
from clray.models import masks
from clray.models.loading import load_model, require, trainable_model
from clray.train.objective import TargetLoss, collate
from clray.train.schedule import learning_rate
from tables import keep

pytestmark = pytest.mark.ray


def losses(result):
    return [point["loss"] for point in result.curve]


def shards_of(order, store):
    manifest = Manifest.load(store, f"mixtures/{order.mixture}")
    return PackedShards(store, manifest), manifest


def plan_of(order, store):
    shards, manifest = shards_of(order, store)
    return shards, plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)


def plain_pytorch(order, store):
    """Losses and model of the stage in plain PyTorch: AdamW, clipping, schedule and token-mean loss once more."""
    shards, plan = plan_of(order, store)
    torch.manual_seed(order.seed)
    recipe = order.recipe
    model, _ = trainable_model(store, require(store, order.parent), recipe["adapter"], "fp32", "auto", False)
    loss_of, trained = TargetLoss(model), [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    expected = []
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, plan.steps, 1e-3, recipe["schedule"])
        batch = collate(shards, plan.rows(step), plan.size)
        loss = loss_of(batch) / len(batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        expected.append(loss.item())
    return expected, model


def distance(model, folder):
    """Largest difference between the trained weights of the model and those in the folder."""
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    named = {n.replace(".default", ""): p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return max((named[name] - tensor).abs().max().item() for name, tensor in found.items() if name in named)


@pytest.fixture(scope="module")
def matrix():
    """Collects the rows of the table of RELIABILITY.md."""
    rows = []
    yield rows
    keep("zero", ("adapter", "ZeRO", "offload", "largest relative difference of a loss", "of a weight"), rows)


@pytest.mark.parametrize("adapter", ["{kind: full}", "{kind: lora, rank: 4}"], ids=["full", "lora"])
def test_every_zero_stage_equals_plain_pytorch(train, adapter, matrix):
    """Losses of all steps and the weights after them, for ZeRO 0-3, and with offload where there is some."""
    how = [f"method.adapter={adapter}"]
    expected = None
    for zero, offload in [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "cpu"), (3, "cpu")]:
        order, result, store = train(0, [*how, f"compute.zero_stage={zero}", f"compute.offload={offload}"])
        if expected is None:
            expected, model = plain_pytorch(order, store)
        worst = max(abs(a - b) / b for a, b in zip(losses(result), expected, strict=True))
        apart = distance(model, store.weights(order.key))
        assert worst < 1e-4 and apart < 1e-4
        kind = order.recipe["adapter"]["kind"]
        matrix.append((kind, str(zero), offload, f"{worst:.1e}", f"{apart:.1e}"))


def test_losses_equal_those_of_the_transformers_trainer(train, tmp_path):
    """Same batches, the Trainer's own loss over labels, its own optimiser and schedule: same losses."""
    from transformers import Trainer, TrainingArguments

    order, result, store = train(0, ["method.schedule={kind: constant, warmup: 0.0}", "optimiser.weight_decay=0.0"])
    shards, plan = plan_of(order, store)
    rows = [{"row": int(row)} for step in range(plan.steps) for row in plan.rows(step)]

    def labelled(items):
        batch = collate(shards, np.array([item["row"] for item in items]), plan.size)
        labels = torch.full_like(batch.ids, -100)
        labels.view(-1)[batch.index + 1] = batch.labels
        mask = masks.block_causal(batch.segments, torch.float32)
        return {"input_ids": batch.ids, "position_ids": batch.positions, "attention_mask": mask, "labels": labels}

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=plan.size,
        max_steps=plan.steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = InOrder(load_model(store, order.parent), arguments, data_collator=labelled, train_dataset=rows)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses(result) == pytest.approx(logged, rel=1e-3)


@pytest.mark.parametrize(
    "override",
    [
        "compute.micro_batch=1",
        "compute.micro_batch=3",
        "compute.gradient_checkpointing=true",
    ],
)
def test_how_it_is_computed_does_not_change_the_losses(train, override):
    reference, changed = train()[1], train(0, [override])[1]
    assert losses(changed) == pytest.approx(losses(reference), rel=1e-4)
    assert changed.key == reference.key


def test_same_seed_same_bits(train):
    assert train()[1].files == train()[1].files


def test_packed_documents_have_the_losses_they_have_alone(train):
    """No token sees another document: the loss of a packed row is the sum over its documents, one by one."""
    order, _, store = train()
    shards, _ = shards_of(order, store)
    model = load_model(store, order.parent).eval()
    row = next(i for i in range(len(shards)) if len(shards[i].segments) > 2)
    sequence, alone, start = shards[row], 0.0, 0
    for length in sequence.segments:
        ids = torch.from_numpy(sequence.ids[start : start + length].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        wanted = torch.from_numpy(sequence.targets[start + 1 : start + length])
        alone += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[wanted].sum().item()
        start += length
    with torch.no_grad():
        packed = TargetLoss(model)(collate(shards, np.array([row]), 1)).item()
    assert packed == pytest.approx(alone, rel=1e-5)


def test_a_full_stage_leaves_a_folder_that_transformers_loads(train):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    order, result, store = train()
    folder = store.weights(order.key)
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() == result.training["parameters"]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|endoftext|>"
    assert set(result.files) >= {"weights/model.safetensors", "weights/config.json", "weights/tokenizer.json"}


def test_a_lora_stage_leaves_an_adapter_that_peft_loads(train):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    order, result, store = train(1, ["method.adapter={kind: lora, rank: 4}"])
    assert result.base == order.parent and result.training["trained_parameters"] < result.training["parameters"] / 4
    assert set(result.files) >= {"weights/adapter_model.safetensors", "weights/adapter_config.json"}
    below = AutoModelForCausalLM.from_pretrained(store.weights(order.parent))
    adapted = PeftModel.from_pretrained(below, store.weights(order.key))
    assert any(p.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)


def test_lora_targets_that_fit_nothing_name_those_that_would(train):
    from clray.errors import ModelError

    with pytest.raises(ModelError, match=r"fits no module of the model; its linear modules are .*q_proj"):
        train(1, ["method.adapter={kind: lora, targets: [query]}"])


def test_instruct_projects_the_vocabulary_at_targets_only(train):
    order, _, store = train(1)
    shards, _ = shards_of(order, store)
    batch = collate(shards, np.arange(2), 2)
    assert 0 < len(batch.labels) < batch.ids.numel() / 4
    model = load_model(store, order.parent)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, given, out: sizes.append(out.shape))
    TargetLoss(model)(batch)
    assert sizes == [(len(batch.labels), model.config.vocab_size)]
