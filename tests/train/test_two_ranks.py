"""Frozen parts, new layers, carried state and regularisers with two workers: the same losses as with one."""

import pytest
from safetensors.torch import load_file

from clray.lineage.store import Store
from clray.models.loading import load_model
from clray.preparation import order_of, prepare_stage
from two_ranks import by_two

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CARRY = "optimiser={learning_rate: 1e-3, state: carry}"
MICRO = "compute.micro_batch=4"


@pytest.mark.parametrize("zero", [1, 3])
@pytest.mark.parametrize(
    "adapter",
    ["{kind: full, freeze: {layers: 1, embeddings: true}}", "{kind: expansion, layers: 2}"],
    ids=["freeze", "expansion"],
)
def test_two_ranks_carry_the_state_of_one_and_train_the_same(train_line, tmp_path, adapter, zero):
    how = [CARRY, MICRO, f"method.adapter={adapter}", f"compute.zero_stage={zero}"]
    plan, (_, expected) = train_line(tmp_path / "store", how)
    line = plan.lines[0]
    second = line.stages[1]
    order = order_of(prepare_stage(second, plan.store, line), line, plan.store)
    alone = load_model(plan.store, second.key).state_dict()
    moments = load_file(plan.store.fetch(f"generations/{second.key}/optimiser") / "moments-00000.safetensors")
    plan.store.delete(f"generations/{second.key}")
    found = by_two(order, tmp_path)
    assert found["losses"] == pytest.approx([point["loss"] for point in expected.curve], rel=1e-4)
    folder = Store(str(tmp_path / "store")).fetch(f"generations/{second.key}")
    shared = [load_file(folder / name) for name in found["files"] if name.startswith("optimiser/")]
    assert len(shared) == 2 and not shared[0].keys() & shared[1].keys()
    assert (shared[0] | shared[1]).keys() == moments.keys()
    weights = load_file(folder / "weights" / "model.safetensors")
    assert max((weights[name] - alone[name]).abs().max().item() for name in weights) < 2e-3


@pytest.mark.parametrize(
    ("regulariser", "zero"),
    [("{kind: ewc, weight: 300.0, samples: 12}", 3), ("{kind: l2, weight: 20.0}", 1), ("{kind: lwf, top_k: 32}", 2)],
    ids=["ewc", "l2", "lwf"],
)
def test_two_ranks_are_held_as_one_is(train_line, tmp_path, regulariser, zero):
    how = [MICRO, f"stages.rows.method={{regulariser: {regulariser}}}", f"compute.zero_stage={zero}"]
    plan, (_, expected) = train_line(tmp_path / "store", how)
    line = plan.lines[0]
    second = line.stages[1]
    order = order_of(prepare_stage(second, plan.store, line), line, plan.store)
    alone = load_model(plan.store, second.key).state_dict()
    for made in (f"generations/{second.key}", f"generations/{second.parent}/ewc", "logits"):
        plan.store.delete(made)
    found = by_two(order, tmp_path)
    assert found["losses"] == pytest.approx([point["loss"] for point in expected.curve], rel=1e-4)
    weights = load_file(plan.store.fetch(f"generations/{second.key}/weights") / "model.safetensors")
    assert max((weights[name] - alone[name]).abs().max().item() for name in weights) < 2e-3
