"""Pseudo-samples: written by a model that knows only what it was taught, the same however they are asked for."""

import pytest
import torch

from clray.data.formatting import encode_question, question
from clray.errors import ModelError
from clray.evaluation.pseudo import AT_ONCE, PseudoSpec, as_prompts, record, write_samples
from clray.spec.format import Format

ROWS = [{"instruction": "w50 w51", "input": f"w{n} w70"} for n in (40, 41, 42)]


def spec(**changes):
    values = {"count": 5, "limit": 16, "top_k": 20, "repetition_penalty": 1.0, "seed": 3, "precision": "fp32"}
    names = {"generator": "k" * 32, "tokenizer": "", "tokenizer_digest": "t"}
    return PseudoSpec(**{**names, **values, "form": Format(prompt="{instruction} w9 {input} w8"), **changes})


@pytest.fixture(scope="module")
def taught(llama, words):
    """The tiny Llama, trained until it writes ROWS."""
    torch.manual_seed(0)
    rows = torch.tensor([encode_question(words, row, 16).ids for row in ROWS])
    optimiser = torch.optim.Adam(llama.parameters(), lr=3e-3)
    for _ in range(150):
        llama(rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return llama


def test_a_question_is_instruction_and_input_each_ended(words):
    encoded = encode_question(words, {"instruction": "w5", "input": "w6 w7"}, 16)
    assert encoded.ids == [1, 5, 2, 6, 7, 2] and encoded.targets == [False] + [True] * 5
    assert encode_question(words, {"instruction": "w5", "input": "w6 w7"}, 4).ids == [1, 5, 2, 6]
    assert encode_question(words, {"instruction": "w5"}, 16).ids == [1, 5, 2, 2]


def test_in_a_chat_the_last_user_turn_is_the_input():
    turns = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello"}]
    answer = {"role": "assistant", "content": "hi"}
    assert question({"messages": [*turns, answer]}) == ("be short", "hello")
    assert question({"messages": [turns[1], answer]}) == ("hello", "")


def test_a_taught_model_writes_what_it_was_taught(taught, words):
    samples = write_samples(taught, words, spec(top_k=3), 0)
    known = [sample for sample in samples if sample in ROWS]
    assert len(samples) > 0.8 * AT_ONCE and len(known) > 0.8 * len(samples)
    assert {sample["input"] for sample in known} == {row["input"] for row in ROWS}


def test_a_chunk_depends_on_seed_and_number_alone(taught, words):
    first = write_samples(taught, words, spec(), 0)
    torch.rand(7)
    assert write_samples(taught, words, spec(), 0) == first
    assert write_samples(taught, words, spec(), 1) != first
    assert write_samples(taught, words, spec(seed=4), 0) != first


def test_samples_become_prompts_under_the_template_cut_to_the_limit(words):
    long = {"instruction": "w50", "input": " ".join(["w70"] * 40)}
    short, cut = as_prompts(words, [ROWS[0], long], spec())
    assert short == [1, 50, 51, 9, 40, 70, 8]
    assert len(cut) == 15 and cut[:2] == [1, 50] and cut[-1] == 8


def test_the_first_samples_are_kept_and_none_at_all_is_an_error(words):
    kept = record(spec(count=2), ROWS, 32, words)
    assert kept["samples"] == ROWS[:2] and len(kept["prompts"]) == 2 and kept["tried"] == 32
    with pytest.raises(ModelError, match=r"wrote no sample .* in 32 tries"):
        record(spec(), [], 32, words)


def test_the_address_holds_all_that_decides_the_samples(words):
    same = spec(tokenizer="/elsewhere")
    assert same.path == spec().path
    for change in ({"seed": 4}, {"top_k": 5}, {"count": 6}, {"form": Format(prompt="{instruction}")}, {"limit": 9}):
        assert spec(**change).path != spec().path
