"""A stage that is left half-way and goes on ends in the same bits, for every ZeRO stage, adapter and precision."""

import dataclasses

import pytest

from clray.train.checkpoint import Checkpoints, clear
from clray.train.order import StageLeft

pytestmark = pytest.mark.ray
LORA = "method.adapter={kind: lora, rank: 4, dropout: 0.1}"


def leaving_after(context, steps):
    """The context of a rank that is told to leave once `steps` optimiser steps are done."""
    asked, notes = [], []

    def leave():
        asked.append(True)
        return len(asked) >= steps

    return dataclasses.replace(context, leave=leave, say=notes.append), notes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", ["method.adapter={kind: full}", LORA], ids=["full", "lora"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_leaving_and_going_on_gives_the_same_bits(train, alone, zero, adapter, precision):
    how = [f"compute.zero_stage={zero}", adapter, f"compute.precision={precision}", "compute.micro_batch=4"]
    order, whole, store = train(0, how)
    leaving, _ = leaving_after(alone, 3)
    with pytest.raises(StageLeft) as left:
        train(0, how, leaving)
    assert left.value.step == 3
    saved = Checkpoints(store, order.key, 2, print).newest(order.mixture)
    assert saved.step == 3 and len(saved.curve) == 3
    going_on, notes = leaving_after(alone, 10**9)
    _, again, _ = train(0, how, going_on)
    clear(store, order.key)
    assert notes == ["goes on from the checkpoint after step 3"]
    assert [p["loss"] for p in again.curve] == [p["loss"] for p in whole.curve]
    assert again.files == whole.files


def test_a_lora_checkpoint_holds_the_adapter_alone(train, alone):
    leaving, _ = leaving_after(alone, 2)
    with pytest.raises(StageLeft):
        train(0, [LORA], leaving)
    order, _, store = train(0, [LORA, "compute.checkpoint={every_steps: 100}"])
    tensors = Checkpoints(store, order.key, 2, print).newest(order.mixture).tensors(store)
    clear(store, order.key)
    assert tensors and all("lora_" in name for name in tensors)
    assert len(tensors) % 3 == 0


def test_another_zero_stage_goes_on_with_the_same_losses(train, alone):
    order, whole, store = train(0, ["compute.zero_stage=0"])
    leaving, _ = leaving_after(alone, 3)
    with pytest.raises(StageLeft):
        train(0, ["compute.zero_stage=3"], leaving)
    _, again, _ = train(0, ["compute.zero_stage=1"])
    clear(store, order.key)
    assert [p["loss"] for p in again.curve] == pytest.approx([p["loss"] for p in whole.curve], rel=1e-4)


def test_checkpoints_are_taken_every_n_steps_and_only_the_newest_are_kept(train, alone):
    leaving, _ = leaving_after(alone, 5)
    with pytest.raises(StageLeft):
        order, _, store = train(0, ["compute.checkpoint={every_steps: 1, keep: 2}"], leaving)
    order, _, store = train(0)
    names = store.list(f"checkpoints/{order.key}")
    clear(store, order.key)
    assert [name.partition("-")[0] for name in names] == ["000000004", "000000005"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "record"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(train, alone, damage):
    leaving, _ = leaving_after(alone, 4)
    how = ["compute.checkpoint={every_steps: 2, keep: 2}"]
    with pytest.raises(StageLeft):
        train(0, how, leaving)
    order, whole, store = train(0, how)
    folder = store.fetch(f"checkpoints/{order.key}")
    newest = sorted(folder.iterdir())[-1]
    state = newest / "state-00000.safetensors"
    match damage:
        case "truncate":
            state.write_bytes(state.read_bytes()[:-7])
        case "flip":
            content = bytearray(state.read_bytes())
            content[len(content) // 2] ^= 1
            state.write_bytes(content)
        case "remove":
            state.unlink()
        case "record":
            (newest / "checkpoint.json").write_text("{")
    going_on, notes = leaving_after(alone, 10**9)
    _, again, _ = train(0, how, going_on)
    clear(store, order.key)
    assert newest.name in notes[0] and notes[1] == "goes on from the checkpoint after step 2"
    assert again.files == whole.files


def test_a_checkpoint_of_another_mixture_is_not_taken(train, alone):
    leaving, _ = leaving_after(alone, 2)
    with pytest.raises(StageLeft):
        train(0, (), leaving)
    order, _, store = train(0)
    checkpoints = Checkpoints(store, order.key, 2, print)
    assert checkpoints.newest("another mixture") is None
    clear(store, order.key)
    assert checkpoints.newest(order.mixture) is None
