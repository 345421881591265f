"""The loss of preference pairs equals what is worked out by hand, and TRL's; the loop equals plain PyTorch's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from clray import recording
from clray.data.batches import PackedShards, Sequence, plan_batches
from clray.data.manifest import Manifest
from clray.evaluation import references
from clray.evaluation.choice import score_choices
from clray.models.loading import load_model, require, trainable_model
from clray.planner import make_plan
from clray.preparation import order_of, prepare_stage
from clray.spec import loading
from clray.spec.align import Align
from clray.train import checkpoint
from clray.train.loop import train_stage
from clray.train.objective import TargetLoss, collate
from clray.train.order import StageLeft
from clray.train.preference import PreferenceLoss
from clray.train.schedule import learning_rate
from texts import texts, write_lines
from two_ranks import by_two

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def loss_of(**settings):
    return PreferenceLoss(Align(**settings).model_dump())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.313262),
        ({"label_smoothing": 0.1}, 0.413262),
        ({"loss": "length_normalised"}, 0.386871),
        ({"likelihood": 2.0}, 3.085851),
    ],
)
def test_a_pair_has_the_loss_worked_out_by_hand(settings, expected):
    """Uniform over 4 tokens, a token has log p = -ln 4 = -1.386294. Chosen: 2 tokens, -2.772589; rejected: 1 token.

    References 1 lower and 1 higher, so the log-ratios are 1 and -1, and with beta 0.5 the margin is 0.5 * (1 + 1) = 1:
    -ln sigmoid(1) = ln(1 + 1/e) = 0.313262. Smoothed by 0.1: 0.9 * 0.313262 + 0.1 * 1.313262 = 0.413262. By length:
    0.5 * (1/2 + 1) = 0.75, ln(1 + exp(-0.75)) = 0.386871. Likelihood twice: 0.313262 + 2 * 1.386294 = 3.085851.
    """
    loss = loss_of(beta=0.5, **settings)
    halves, references_S = torch.tensor([0, 0, 1]), torch.tensor([-2 * math.log(4) - 1, -math.log(4) + 1])
    total, seen = loss(torch.zeros(3, 4), torch.tensor([1, 2, 3]), halves, references_S)
    assert total.item() == pytest.approx(expected, abs=1e-5)
    found = dict(zip(loss.names, (seen[:, 0] / seen[:, 1]).tolist(), strict=True))
    margin = 0.75 if settings.get("loss") else 1.0
    wanted = {
        "reward_margin": margin,
        "reward_accuracy": 1.0,
        "chosen_log_prob": -2.772589,
        "rejected_log_prob": -1.386294,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
    assert ("loss_likelihood" in found) == bool(settings.get("likelihood"))


def test_gradients_are_those_of_the_formula():
    """d loss / d logits = -+ beta * sigmoid(-m) * (one-hot(label) - p), summed over the targets of each answer."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 7, generator=generator, dtype=torch.float32, requires_grad=True)
    labels, halves = torch.tensor([1, 4, 6, 0, 2, 3, 3, 5, 1]), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3])
    reference = torch.tensor([-3.0, -8.0, -2.5, -5.0])
    loss_of(beta=0.7)(logits, labels, halves, reference)[0].backward()
    with torch.no_grad():
        p = logits.softmax(-1)
        log_p = logits.log_softmax(-1)[torch.arange(9), labels]
        ratios = torch.stack([log_p[halves == s].sum() for s in range(4)]) - reference
        margins = 0.7 * (ratios[0::2] - ratios[1::2])
        sign = torch.where(halves % 2 == 0, -1.0, 1.0)
        scale = sign * 0.7 * torch.sigmoid(-margins)[halves // 2]
        expected = scale[:, None] * (torch.nn.functional.one_hot(labels, 7) - p)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-6)


def models():
    """A policy, and the reference that it began as."""
    found = []
    for shift in (0.05, 0.0):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, bos_token_id=1, eos_token_id=2))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift * torch.randn_like(parameter))
        found.append(model)
    return found


def packed(rows, reference, chosen=0):
    """Rows of pairs of random tokens, with the reference's log p; `chosen`: tokens of each chosen answer, 0 for any."""
    draw, found = np.random.default_rng(0), []
    for count in rows:
        ids, targets, segments = [], [], []
        for _ in range(count):
            prompt = draw.integers(3, 60, draw.integers(1, 6))
            for half in range(2):
                answer = draw.integers(3, 60, chosen if chosen and not half else draw.integers(1, 7))
                ids += [*prompt, *answer]
                targets += [False] * len(prompt) + [True] * len(answer)
                segments.append(len(prompt) + len(answer))
        sequence = Sequence(np.array(ids), np.array(targets), np.array(segments), np.zeros(len(segments)))
        pairs = list(references.pairs_of(sequence))
        scores = [result["scores"] for result in score_choices(reference, pairs, 256, 0, normalise="none")]
        found.append(dataclasses.replace(sequence, references=np.concatenate(scores)))
    return found


def ours(model, sequences, **settings):
    """Mean loss over the pairs, and the gradients."""
    loss = TargetLoss(model, preference=loss_of(**settings))
    total = loss(collate(sequences, np.arange(len(sequences)), len(sequences)))
    (total / sum(len(s.segments) // 2 for s in sequences)).backward()
    return total.item() / sum(len(s.segments) // 2 for s in sequences), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"loss": "length_normalised"}, {"loss_type": ["sigmoid_norm"]}),
        ({"likelihood": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"label_smoothing": 0.2}, {"loss_type": ["aot"], "label_smoothing": 0.2}),
    ],
    ids=["dpo", "length_normalised", "likelihood", "label_smoothing"],
)
def test_loss_and_gradients_equal_those_of_trl(settings, theirs, tiny_model, tmp_path):
    """TRL's DPOTrainer on the same pairs, with a reference model of its own in memory.

    TRL smooths labels in AOT, which sorts the log-ratios of a batch and so is DPO for a batch of one pair. Its SFT term
    is a mean over all chosen tokens, ours over the answers': the same where these are as long.
    """
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    policy, reference = models()
    rows = [1] if "label_smoothing" in settings else [2, 1, 3]
    sequences = packed(rows, reference, chosen=4 if "likelihood" in settings else 0)
    how = {"report_to": [], "use_cpu": True, "bf16": False, "max_length": None}
    arguments = trl.DPOConfig(output_dir=str(tmp_path), beta=0.3, **how, **theirs)
    trainer = trl.DPOTrainer(
        model=models()[0],
        ref_model=models()[1],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "one", "chosen": "two", "rejected": "three"}]),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    pairs = [
        {"prompt_ids": list(p.prompt_ids), "chosen_ids": list(p.options[0]), "rejected_ids": list(p.options[1])}
        for sequence in sequences
        for p in references.pairs_of(sequence)
    ]
    expected = trainer._compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=0)(pairs), False)
    expected.backward()
    found, gradients = ours(policy, sequences, beta=0.3, **settings)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_micro_batch_without_pairs_has_no_loss_and_a_gradient():
    policy, reference = models()
    loss = TargetLoss(policy, preference=loss_of())
    total = loss(collate(packed([1], reference), np.empty(0, dtype=np.int64), 2))
    total.backward()
    assert total.item() == 0.0 and loss.seen.shape == (4, 2) and not loss.seen.any()
    assert all(float(p.grad.abs().sum()) == 0.0 for p in policy.parameters())


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    """An instruct stage and an align stage over generated text: the first word is preferred to the last."""
    folder = tmp_path_factory.mktemp("aligned")
    found = texts(24, most=8)
    rows = [{"instruction": "say a word of", "input": t, "output": t.split()[1]} for t in found]
    pairs = [
        {"instruction": "say a word of", "input": t, "chosen": t.split()[0], "rejected": " ".join(t.split()[-2:])}
        for t in found
    ]
    write_lines(folder / "rows.jsonl", rows)
    write_lines(folder / "pairs.jsonl", pairs)
    return loading.loads(f"""
name: aligned
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 128
batch: {{size: 4}}
compute: {{micro_batch: 4}}
optimiser: {{learning_rate: 1e-3, clip: 1.0, weight_decay: 0.1}}
stages:
  - {{name: rows, kind: instruct, data: {folder}/rows.jsonl}}
  - {{name: pairs, kind: align, data: {folder}/pairs.jsonl, length: {{epochs: 2}}, align: {{beta: 0.5}}}}
""")


def refer(prepared, store):
    """Has the parent score the pairs, in parts of three sequences."""
    spec = prepared.references
    if spec is None or Manifest.load(store, spec.folder):
        return
    model, count = load_model(store, spec.generation), len(spec.shards(store))
    runs = [range(at, min(at + 3, count)) for at in range(0, count, 3)]
    references.commit(
        spec, store, [references.score_part(model, spec, store, n, run, 512) for n, run in enumerate(runs)]
    )


@pytest.fixture(scope="module")
def train(stream, alone, tmp_path_factory):
    """Trains the stages, but the last once for each adapter; returns order and result of the last, and the store."""
    stores = {}

    def run(overrides=(), adapter="{kind: full}", context=alone, only_order=False):
        store = stores.setdefault(adapter, tmp_path_factory.mktemp("store"))
        how = [f"storage={store}", f"method.adapter={adapter}", *overrides]
        plan = make_plan(loading.loads(loading.to_yaml(stream), how))
        line = plan.lines[0]
        for planned in line.stages:
            last = planned is line.stages[-1]
            if plan.store.generation(planned.key) and not last:
                continue
            prepared = prepare_stage(planned, plan.store, line)
            refer(prepared, plan.store)
            order = order_of(prepared, line, plan.store)
            if last and only_order:
                return order, None, plan.store
            result = train_stage(order, context)
            if not last:
                plan.store.commit(recording.generation(line, planned, prepared, result))
        return order, result, plan.store

    return run


def alone_log_p(model, prompt, option):
    """log p of the option behind the prompt, from a forward pass over the two alone, with gradient."""
    logits = model(torch.tensor([[*prompt, *option]])).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt) - 1, len(prompt) + len(option) - 1)
    return logits[places, torch.tensor(option)].sum()


def plain_pytorch(order, store):
    """Losses and model of the stage in plain PyTorch: each answer by itself, no packing, no engine."""
    manifest = Manifest.load(store, f"mixtures/{order.mixture}")
    shards = PackedShards(store, manifest)
    plan = plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)
    model, _ = trainable_model(store, require(store, order.parent), order.recipe["adapter"], "fp32", "auto", False)
    frozen, beta = load_model(store, order.parent), order.recipe["align"]["beta"]
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) == deep] for deep in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser, expected = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8), []
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, plan.steps, 1e-3, order.recipe["schedule"])
        margins = []
        for row in plan.rows(step):
            for pair in references.pairs_of(shards[int(row)]):
                now = [alone_log_p(model, pair.prompt_ids, option) for option in pair.options]
                with torch.no_grad():
                    before = [alone_log_p(frozen, pair.prompt_ids, option) for option in pair.options]
                margins.append(beta * ((now[0] - before[0]) - (now[1] - before[1])))
        loss = torch.log1p(torch.exp(-torch.stack(margins))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimiser.step()
        optimiser.zero_grad()
        expected.append(loss.item())
    return expected, {name: p.detach() for name, p in model.named_parameters()}


def losses(result):
    return [point["loss"] for point in result.curve]


@pytest.fixture(scope="module")
def by_hand(train):
    order, _, store = train(only_order=True)
    return plain_pytorch(order, store)


@pytest.mark.ray
@pytest.mark.parametrize(
    "how",
    [
        ["compute.zero_stage=0"],
        ["compute.zero_stage=1", "compute.micro_batch=1"],
        ["compute.zero_stage=2", "compute.micro_batch=3"],
        ["compute.zero_stage=3"],
        ["compute.gradient_checkpointing=true"],
    ],
    ids=["zero 0", "zero 1, micro 1", "zero 2, micro 3", "zero 3", "checkpointing"],
)
def test_every_zero_stage_and_micro_batch_equals_plain_pytorch(train, by_hand, how):
    expected, weights = by_hand
    order, result, store = train(how)
    assert losses(result) == pytest.approx(expected, rel=1e-4)
    assert losses(result)[0] == pytest.approx(math.log(2), rel=1e-4) and losses(result)[-1] < losses(result)[0]
    saved = load_file(store.weights(order.key) / "model.safetensors")
    apart = torch.cat([(saved[name] - weights[name]).abs().flatten() for name in saved])
    assert apart.max() < 2e-3 and apart.mean() < 1e-5


@pytest.mark.ray
def test_margin_accuracy_and_log_probabilities_are_in_the_curve(train):
    _, result, _ = train(["stages.pairs.align={beta: 0.5, likelihood: 0.2}"])
    first, last = result.curve[0], result.curve[-1]
    assert abs(first["reward_margin"]) < 1e-4 < last["reward_margin"] and last["reward_accuracy"] > 0.5
    assert first["chosen_log_prob"] < 0 and last["chosen_log_prob"] > first["chosen_log_prob"]
    for point in result.curve:
        assert point["loss"] == pytest.approx(point["loss_preference"] + 0.2 * point["loss_likelihood"], rel=1e-5)


STACK = "targets: [q_proj, v_proj]"


@pytest.mark.ray
@pytest.mark.parametrize(
    "adapter",
    [
        "{kind: lora, rank: 4}",
        f"{{kind: lora_stack, rank: 4, {STACK}}}",
        f"{{kind: olora, rank: 4, {STACK}}}",
        f"{{kind: sapt, {STACK}, reflection: {{prompts: 20, batch: 4}}}}",
        "{kind: expansion, layers: 1}",
    ],
    ids=["lora", "lora_stack", "olora", "sapt", "expansion"],
)
def test_every_adapter_begins_where_its_parent_ended_and_learns(train, adapter):
    """But for SAPT, whose new block takes attention from the earlier ones before it has learnt anything."""
    _, result, _ = train(["optimiser.learning_rate=5e-3"], adapter)
    first, last = result.curve[0], result.curve[-1]
    assert "sapt" in adapter or abs(first["reward_margin"]) < 1e-4
    assert last["reward_margin"] > max(0.0, first["reward_margin"]) and last["loss"] < first["loss"]


@pytest.mark.ray
@pytest.mark.parametrize("zero", [0, 3])
def test_a_left_stage_goes_on_to_the_same_bits(train, alone, zero):
    how = [f"compute.zero_stage={zero}"]
    _, whole, _ = train(how)
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 2)
    with pytest.raises(StageLeft):
        train(how, context=leaving)
    order, again, store = train(how)
    checkpoint.clear(store, order.key)
    assert losses(again) == losses(whole) and again.files == whole.files
    assert [point["reward_margin"] for point in again.curve] == [point["reward_margin"] for point in whole.curve]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_two_ranks_have_the_losses_of_one(train, by_hand, tmp_path, zero):
    order, _, _ = train([f"compute.zero_stage={zero}", "compute.micro_batch=1"], only_order=True)
    assert by_two(order, tmp_path)["losses"] == pytest.approx(by_hand[0], rel=1e-4)
