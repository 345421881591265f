"""Written answers: plain greedy whatever the model says, alike in any batch, cut at end token and limit."""

from __future__ import annotations

import random
import warnings

import peft
import pytest
import torch
from transformers import GenerationConfig

from clray.errors import DataError
from clray.evaluation.generate import GenerateExample, generate_answers


def some_examples(count=8, longest=20, seed=0):
    draw = random.Random(seed)
    prompts = [tuple(draw.randrange(3, 96) for _ in range(draw.randint(1, longest))) for _ in range(count)]
    return [GenerateExample(prompt, ("w5 w6", "w7")) for prompt in prompts]


def greedy(model, prompt, limit, end=2):
    """Tokens of the plain loop: one whole forward pass for each."""
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]


def test_answers_are_those_of_the_plain_greedy_loop(any_model, words):
    examples = some_examples()
    results = generate_answers(any_model, words, examples, max_new_tokens=6, batch_tokens=100)
    for example, result in zip(examples, results, strict=True):
        tokens = greedy(any_model, example.prompt_ids, 6)
        assert result["answered"] == (tokens[-1] == 2)
        assert result["prediction"] == words.decode(tokens, skip_special_tokens=True).strip()
        assert result["references"] == ["w5 w6", "w7"]


def test_batched_equals_one_by_one_in_input_order(any_model, words):
    examples = some_examples(seed=1)
    alone = [generate_answers(any_model, words, [e], 5, batch_tokens=1)[0] for e in examples]
    for budget in (1, 60, 10_000):
        assert generate_answers(any_model, words, examples, 5, budget) == alone


def test_the_answer_fits_the_models_positions(any_model, words):
    """A prompt of 60 leaves 4 of 64 positions, beside a short one with its full 10."""
    examples = [GenerateExample(tuple(range(3, 63)), ("x",)), GenerateExample((4, 5), ("x",))]
    results = generate_answers(any_model, words, examples, max_new_tokens=10, batch_tokens=10_000)
    for example, result, limit in zip(examples, results, (4, 10), strict=True):
        tokens = greedy(any_model, example.prompt_ids, limit)
        assert result["prediction"] == words.decode(tokens, skip_special_tokens=True).strip()


def test_the_end_token_is_an_answer_and_the_limit_is_not(llama, words):
    """The token that the model writes third is made an end token of the model's own."""
    prompt = (10, 11, 12)
    third = greedy(llama, prompt, 3)[2]
    kept = llama.generation_config.eos_token_id
    [before] = generate_answers(llama, words, [GenerateExample(prompt, ("x",))], 3, 100)
    llama.generation_config.eos_token_id = [2, third]
    [after] = generate_answers(llama, words, [GenerateExample(prompt, ("x",))], 3, 100)
    llama.generation_config.eos_token_id = kept
    assert not before["answered"] and after["answered"]
    assert before["prediction"].startswith(after["prediction"])
    assert len(after["prediction"].split()) < len(before["prediction"].split())


def test_sampling_settings_of_the_model_neither_count_nor_warn(llama, words, caplog):
    examples = some_examples(count=3)
    plain = generate_answers(llama, words, examples, 6, 100)
    own = llama.generation_config
    llama.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        repetition_penalty=5.0,
        max_length=4,
        num_beams=2,
        eos_token_id=2,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert generate_answers(llama, words, examples, 6, 100) == plain
        assert llama.generation_config.repetition_penalty == 5.0
    finally:
        llama.generation_config = own
    assert not caplog.records


def test_an_adapter_writes_too_and_keeps_its_settings(llama, words):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped, own = peft.get_peft_model(llama, config), llama.generation_config
    [example] = some_examples(count=1)
    [result] = generate_answers(wrapped, words, [example], 6, 100)
    tokens = greedy(wrapped, example.prompt_ids, 6)
    assert wrapped.generation_config is own
    wrapped.unload()
    assert result["prediction"] == words.decode(tokens, skip_special_tokens=True).strip()


def test_scores_stand_beside_the_answer(llama, words):
    [found] = generate_answers(llama, words, [GenerateExample((10, 11), ("x",))], 3, 100)
    text = found["prediction"]
    [result] = generate_answers(llama, words, [GenerateExample((10, 11), ("x", text.upper()))], 3, 100)
    assert result["exact_match"] == result["rouge_l"] == 1.0


@pytest.mark.parametrize("prompt", [(), (3,) * 64])
def test_a_prompt_without_room_is_refused(llama, words, prompt):
    with pytest.raises(DataError, match="room for an answer in the model's 64 positions"):
        generate_answers(llama, words, [GenerateExample(prompt, ("x",))], 4, 100)


def test_a_real_chat_model_answers_alike_alone_and_together(chat_model):
    model, tokenizer = chat_model
    prompts = [
        "Once upon a time",
        "Tom had a red ball. He",
        "The dog",
        "Lily and her mom went to the park to",
    ]
    examples = [GenerateExample(tuple(tokenizer(p)["input_ids"]), ("a story",)) for p in prompts]
    alone = [generate_answers(model, tokenizer, [e], 12, 1)[0] for e in examples]
    together = generate_answers(model, tokenizer, examples, 12, 4096)
    assert together == alone and all(result["prediction"] for result in together)
