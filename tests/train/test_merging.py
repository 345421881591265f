"""Weights merged with those of an earlier generation: by hand, and from files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from clray.train.merging import by_vectors, linear, opened, rewrite

TIES = {"method": "ties", "weight": 0.5, "density": 1.0}


def vector(*values):
    return torch.tensor(values)


def test_linear_is_a_way_from_the_other_to_the_trained():
    assert linear(vector(4.0, -2.0), vector(0.0, 2.0), 0.25).tolist() == [1.0, 1.0]


def test_ties_elects_a_sign_and_takes_the_mean_of_those_that_have_it():
    """Sums 2 and 4: both positive. The first entry is the 4 alone, the second the mean of 1 and 3."""
    merged = by_vectors([vector(4.0, 1.0), vector(-2.0, 3.0)], TIES, False, 0)
    assert merged.tolist() == [4.0, 2.0]


def test_the_weight_moves_ties_towards_one_of_them():
    """Shares 1.5 and 0.5: the first entry 4 * 1.5, the second the mean of 1.5 and 1.5."""
    merged = by_vectors([vector(4.0, 1.0), vector(-2.0, 3.0)], {**TIES, "weight": 0.25}, False, 0)
    assert merged.tolist() == [6.0, 1.5]


def test_ties_trims_by_size():
    merged = by_vectors([vector(4.0, -1.0, 2.0, 0.5), vector(-1.0, -3.0, 1.0, 3.0)], {**TIES, "density": 0.5}, False, 0)
    assert merged.tolist() == [4.0, -3.0, 2.0, 3.0]


def test_one_vector_is_thinned_out_and_weighed():
    assert by_vectors([vector(4.0, 1.0)], {**TIES, "density": 0.5}, False, 0).tolist() == [2.0, 0.0]


def test_factors_of_a_low_rank_update_get_square_roots():
    merged = by_vectors([vector(4.0, 1.0)], {**TIES, "weight": 0.25}, True, 0)
    assert merged.tolist() == [2.0, 0.5]


def test_dare_drops_by_chance_that_the_seed_decides_and_makes_up_for_it():
    settings, state = {"method": "dare_ties", "weight": 1.0, "density": 0.5}, torch.random.get_rng_state()
    first, again, other = (by_vectors([torch.ones(64)], settings, False, seed) for seed in (1, 1, 2))
    assert set(first.tolist()) == {0.0, 2.0} and torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def folders(tmp_path):
    """Files of a trained model, its parent and the base."""
    tensors = {"trained": [4.0, 1.0], "parent": [2.0, 3.0], "base": [0.0, 0.0]}
    for name, values in tensors.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor(values, dtype=torch.bfloat16)}, tmp_path / name / "model.safetensors")
    return tmp_path


def test_a_file_is_written_again_in_its_precision(folders):
    file = folders / "trained" / "model.safetensors"
    with opened(folders / "parent") as parent:
        rewrite(file, {"method": "linear", "weight": 0.25}, parent, {}, False, 0)
    found = load_file(file)["w"]
    assert found.dtype == torch.bfloat16 and found.tolist() == [2.5, 2.5]


def test_task_vectors_are_counted_from_the_base(folders):
    file = folders / "trained" / "model.safetensors"
    with opened(folders / "parent") as parent, opened(folders / "base") as base:
        rewrite(file, TIES, parent, base, False, 0)
    assert load_file(file)["w"].tolist() == [3.0, 2.0]


def test_an_update_that_is_merged_with_none_has_its_product_weighed_once(tmp_path):
    names = {f"base_model.model.q.lora_{x}.weight": torch.ones(1) for x in "AB"}
    save_file(names, tmp_path / "adapter_model.safetensors")
    rewrite(tmp_path / "adapter_model.safetensors", {"method": "linear", "weight": 0.25}, {}, {}, True, 0)
    assert [t.item() for _, t in sorted(load_file(tmp_path / "adapter_model.safetensors").items())] == [1.0, 0.25]
