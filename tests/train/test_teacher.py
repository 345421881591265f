"""What earlier generations say of a mixture before a stage begins: predictions by content, and Fishers. No engine."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from clray.data.batches import PackedShards, plan_batches
from clray.data.manifest import Manifest, write_part
from clray.errors import StorageError
from clray.lineage.clock import now
from clray.lineage.store import Store
from clray.models.base import prepare_base
from clray.models.loading import load_model
from clray.spec import loading
from clray.train import fisher, teacher
from clray.train.context import Context
from clray.train.distil import Distillation
from clray.train.objective import collate, predicted
from clray.train.order import StageOrder

ALONE = Context(rank=0, world=1, device=torch.device("cpu"), report=lambda progress: None)
FULL = {"kind": "full"}
EWC = {"kind": "ewc", "weight": 1.0, "fisher": "online", "decay": 0.5, "samples": 3}
ROWS = [([4, 3], [0, 1]), ([5], [0]), ([2, 2, 3], [1, 0, 1]), ([6], [1])]
"""Lengths and origins of the examples of four packed sequences; all but the first token of an example are targets."""


def packed():
    """The sequences of ROWS as a table, with random tokens."""
    random, rows = np.random.default_rng(0), []
    for segments, origins in ROWS:
        targets = np.concatenate([np.arange(length) > 0 for length in segments])
        ids = random.integers(5, 300, len(targets)).astype(np.int32)
        rows.append((ids, targets, segments, origins))
    ids, targets, segments, origins = zip(*rows, strict=True)
    return pa.table(
        {
            "ids": pa.array(list(ids), pa.list_(pa.int32())),
            "targets": pa.array(list(targets), pa.list_(pa.bool_())),
            "segments": pa.array(list(segments), pa.list_(pa.int32())),
            "origins": pa.array(list(origins), pa.list_(pa.int16())),
            "num_tokens": pa.array([len(row) for row in ids], pa.int32()),
            "num_targets": pa.array([int(row.sum()) for row in targets], pa.int32()),
        }
    )


@pytest.fixture
def store(tiny_model, tmp_path):
    """A store with generation 0, two generations of a full stage (the same weights), and a mixture."""
    stages = "stages: [{name: x, kind: pretrain, data: builtin:docs}]"
    stream = loading.loads(f"name: a\nmodel: {{base: {tiny_model}}}\nstorage: {tmp_path}/store\n{stages}")
    store = Store(stream.storage)
    base = prepare_base(stream, store, now()).generation
    Manifest(digest="m", folder="mixtures/m", parts=(write_part(store, "mixtures/m", 0, packed()),)).commit(store)
    parent = base.key
    for key in ("first", "second"):
        shutil.copytree(store.weights(base.key), f"{store.root}/generations/{key}/weights")
        made = dataclasses.replace(
            base,
            key=key,
            parent=parent,
            base=key,
            index=base.index + 1,
            stage={"adapter": FULL, "kind": "pretrain"},
            data={"digest": "m", "origins": [{}, {}]},
            receipt={"seed": 3, "draws": [{}]},
        )
        store.commit(made)
        parent = key
    return store


def order(store, teachers=(), regulariser=None):
    recipe = {"adapter": FULL, "precision": "fp32", "regulariser": regulariser}
    compute = {"micro_batch": 3}
    return StageOrder(
        storage=store.root,
        key="third",
        parent="second",
        mixture="m",
        recipe=recipe,
        seed=0,
        compute=compute,
        teachers=tuple(teachers),
    )


def asked(store, teachers, kept, length=None):
    shards = PackedShards(store, Manifest.load(store, "mixtures/m"))
    plan = plan_batches(length or {"epochs": 1}, len(shards), 1, 2, 0)
    return teacher.taught(store, order(store, teachers), shards, plan, kept, ALONE)


def test_every_target_has_what_the_parent_predicts_there(store):
    kept = Distillation(1.0, 4, 2.0)
    shards = asked(store, ["second", "second"], kept)
    batch = collate(shards, np.array([2, 0]), 2)
    logits = predicted(load_model(store, "second"), batch)[0]
    expected = torch.log_softmax(logits / 2, -1)
    assert torch.equal(batch.taught_ids, expected.topk(4).indices)
    assert torch.allclose(batch.taught[:, :4], expected.topk(4).values, atol=1e-5)
    rest = torch.log(1 - expected.topk(4).values.exp().sum(1))
    assert torch.allclose(batch.taught[:, 4], rest, atol=1e-4)


def test_only_origins_with_a_teacher_are_taught(store):
    shards = asked(store, ["", "first"], Distillation(1.0, 4, squared=True))
    batch = collate(shards, np.arange(4), 4)
    assert torch.equal(batch.taught_ids[:, 0] >= 0, batch.origins == 1)
    alone = collate(shards, np.array([1]), 1)
    assert (alone.taught_ids == -1).all() and alone.taught.shape == (4, 5)


def test_entries_do_not_depend_on_how_they_are_cut_or_on_the_order_of_steps(store, monkeypatch):
    """Parts of one sequence each, and of all; the batches then come in another order."""
    kept, found = Distillation(1.0, 4), []
    for entries in (1 << 20, 5):
        monkeypatch.setattr(teacher, "ENTRIES_PER_PART", entries)
        store.delete("logits")
        shards = asked(store, ["second", "first"], kept)
        (folder,) = store.list("logits")
        found.append((len(store.list(f"logits/{folder}")), collate(shards, np.array([3, 1, 0]), 3)))
    assert [number for number, _ in found] == [2, 5]
    (_, one), (_, other) = found
    assert torch.equal(one.taught_ids, other.taught_ids) and torch.allclose(one.taught, other.taught, atol=1e-5)


def test_they_are_kept_for_whoever_asks_the_same(store, monkeypatch):
    kept = Distillation(1.0, 4)
    asked(store, ["second", "second"], kept)
    monkeypatch.setattr(teacher, "load_model", None)
    asked(store, ["second", "second"], dataclasses.replace(kept, weight=9.0))
    with pytest.raises(TypeError):
        asked(store, ["second", "second"], dataclasses.replace(kept, temperature=3.0))


def test_a_stage_that_is_shorter_than_an_epoch_asks_for_what_it_sees(store):
    shards = asked(store, ["second", "second"], Distillation(1.0, 4), {"epochs": 0.5})
    seen = plan_batches({"epochs": 0.5}, 4, 1, 2, 0).rows(0)
    taught = [bool((collate(shards, np.array([row]), 1).taught_ids >= 0).all()) for row in range(4)]
    assert taught == [row in seen for row in range(4)]


def test_a_fisher_runs_through_the_line_and_is_kept(store):
    """The same weights and examples twice, at decay 0.5: one and a half times the Fisher of once."""
    parent, model = store.generation("second"), load_model(store, "second")
    state = fisher.running(store, order(store, regulariser=EWC), parent, model, ALONE)
    settings = {name: EWC[name] for name in ("fisher", "decay", "samples")}
    first = fisher.load(store, store.generation("first"), settings)
    assert state.keys() == first.keys() == {name for name, _ in model.named_parameters()}
    assert all(torch.allclose(state[name], 1.5 * first[name], rtol=1e-5) for name in state)
    again = fisher.running(store, order(store, regulariser=EWC), parent, None, ALONE)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_fisher_is_of_the_stages_own_examples_alone(store):
    found = fisher.examples(store, store.generation("second"), 100)
    assert sorted(len(one.ids) for one in found) == [2, 4, 5] and all(one.origins.tolist() == [0] for one in found)
    assert len(fisher.examples(store, store.generation("second"), 2)) == 2


def test_a_stage_that_predicts_no_text_hands_on_what_there_was(store):
    aligned = dataclasses.replace(store.generation("second"), stage={"adapter": FULL, "kind": "align"})
    store.commit(aligned)
    settings = {name: EWC[name] for name in ("fisher", "decay", "samples")}
    state = fisher.running(store, order(store, regulariser=EWC), aligned, load_model(store, "second"), ALONE)
    first = fisher.load(store, store.generation("first"), settings)
    assert all(torch.equal(state[name], 0.5 * first[name]) for name in state)


def test_a_fisher_whose_examples_are_gone_says_what_to_do(store):
    store.delete("mixtures/m")
    with pytest.raises(StorageError, match=r"mixtures/m is gone, which generation second .* was trained on"):
        fisher.examples(store, store.generation("second"), 2)


def test_a_damaged_fisher_is_named(store):
    parent, model = store.generation("second"), load_model(store, "second")
    fisher.running(store, order(store, regulariser=EWC), parent, model, ALONE)
    (file,) = store.fetch("generations/second/ewc").glob("*/fisher.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"fisher\.safetensors is missing or altered"):
        fisher.running(store, order(store, regulariser=EWC), parent, model, ALONE)
