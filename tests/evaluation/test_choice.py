"""Choice scoring: options packed behind one prompt score as if each stood alone behind its own."""

from __future__ import annotations

import random

import peft
import pytest
import torch

from clray.errors import DataError
from clray.evaluation.choice import ChoiceExample, _rows, packing_limit, score_choices


def naive(model, prompt, option):
    """log p(option | prompt) from one unbatched forward pass over the two."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *option]])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + t, token]) for t, token in enumerate(option))


def some_examples(seed, count=9, prompt=(1, 20), option=(1, 7), vocabulary=96):
    """Random examples of all lengths, single-token options among them."""
    draw = random.Random(seed)

    def ids(low, high):
        return tuple(draw.randrange(3, vocabulary) for _ in range(draw.randint(low, high)))

    options = [tuple(ids(*option) for _ in range(draw.randint(1, 6))) for _ in range(count - 1)]
    options.append(tuple(ids(1, 1) for _ in range(4)))
    return [ChoiceExample(ids(*prompt), each, draw.randrange(len(each))) for each in options]


def flat(results):
    return [score for result in results for score in result["scores"]]


def test_packed_equals_option_by_option(any_model):
    examples = some_examples(1)
    expected = [naive(any_model, e.prompt_ids, option) for e in examples for option in e.options]
    results = score_choices(any_model, examples, batch_tokens=200, pad_id=0, normalise="none")
    assert flat(results) == pytest.approx(expected, abs=1e-4)


def test_batched_equals_one_by_one_in_input_order(any_model):
    examples = some_examples(2)
    alone = [score_choices(any_model, [e], batch_tokens=1, pad_id=0)[0] for e in examples]
    for budget in (1, 70, 10_000):
        together = score_choices(any_model, examples, batch_tokens=budget, pad_id=5)
        assert flat(together) == pytest.approx(flat(alone), abs=1e-4)
        assert [r["prediction"] for r in together] == [r["prediction"] for r in alone]


def test_options_beyond_the_models_positions_take_several_rows(any_model):
    """Six options of 30 tokens behind 30: one row would be 204 tokens long, the models take 64."""
    draw = random.Random(3)
    prompt = tuple(draw.randrange(3, 96) for _ in range(30))
    options = tuple(tuple(draw.randrange(3, 96) for _ in range(30)) for _ in range(6))
    [result] = score_choices(any_model, [ChoiceExample(prompt, options, 0)], 1000, pad_id=0, normalise="none")
    assert result["scores"] == pytest.approx([naive(any_model, prompt, o) for o in options], abs=1e-4)


def test_tokens_and_none_normalise_differently(llama):
    [example] = [ChoiceExample((5, 6), ((7,), (8, 9, 10)), 1)]
    [mean] = score_choices(llama, [example], 100, pad_id=0)
    [total] = score_choices(llama, [example], 100, pad_id=0, normalise="none")
    assert mean["scores"] == pytest.approx([total["scores"][0], total["scores"][1] / 3])
    best = max(range(2), key=mean["scores"].__getitem__)
    assert mean["prediction"] == best and mean["gold"] == 1 and mean["correct"] == (best == 1)


def test_equal_options_give_the_first(llama):
    [result] = score_choices(llama, [ChoiceExample((5,), ((8, 9), (8, 9)), 1)], 100, pad_id=0)
    assert result["prediction"] == 0 and not result["correct"]


def test_the_prompt_is_read_once(llama):
    """Fourteen options of 3 tokens behind 20: one row of 20 + 14 * 2 = 48, not fourteen of 22."""
    shapes = []
    hook = llama.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    options = tuple((3 + k, 4 + k, 5 + k) for k in range(14))
    score_choices(llama, [ChoiceExample(tuple(range(3, 23)), options, 0)], 1000, pad_id=0)
    hook.remove()
    assert shapes == [(1, 48)]


def test_packing_stays_within_a_sliding_window_and_off_where_masks_are_not_obeyed(llama, any_model):
    limits = {"llama": 64, "gpt2": 64, "gpt_neo": 16, "mistral": 12}
    assert packing_limit(any_model) == limits[any_model.config.model_type]
    kept = llama.config._attn_implementation
    llama.config._attn_implementation = "flash_attention_2"
    assert packing_limit(llama) == 0
    options = ((3,), (4,), (5, 6), (7,), (8, 9))
    assert [row.options for row in _rows(0, ChoiceExample((1,), options, 0), room=0)] == [
        options[:4],
        options[4:],
    ]
    llama.config._attn_implementation = kept


def test_an_adapter_scores_like_its_merged_model(llama):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    examples = some_examples(4, count=4)
    wrapped = peft.get_peft_model(llama, config)
    packed = flat(score_choices(wrapped, examples, 100, pad_id=0, normalise="none"))
    expected = [naive(wrapped, e.prompt_ids, option) for e in examples for option in e.options]
    wrapped.unload()
    assert packed == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (ChoiceExample((), ((1,),), 0), "example 1 has an empty prompt"),
        (ChoiceExample((1,), (), 0), "an empty option or none"),
        (ChoiceExample((1,), ((1,), ()), 0), "an empty option or none"),
        (ChoiceExample((1,), ((1,),), 1), "says option 1 is right, of 1"),
        (
            ChoiceExample((1,) * 60, ((1,) * 6,), 0),
            "takes 65 tokens with its longest option, but the model takes 64",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(llama, example, message):
    with pytest.raises(DataError, match=message):
        score_choices(llama, [ChoiceExample((1,), ((2,),), 0), example], 100, pad_id=0)


def test_a_real_chat_model_packed_equals_option_by_option(chat_model):
    model, tokenizer = chat_model
    prompts = [
        "Once upon a time, there was a little",
        "The sky is",
        "Question: what does a cow say?\nAnswer:",
    ]
    options = tuple(tuple(tokenizer(t)["input_ids"]) for t in (" girl", " blue and very big", " moo", " a dog."))
    examples = [ChoiceExample(tuple(tokenizer(p)["input_ids"]), options, 0) for p in prompts]
    results = score_choices(model, examples, 512, tokenizer.pad_token_id, normalise="none")
    expected = [naive(model, e.prompt_ids, option) for e in examples for option in options]
    assert flat(results) == pytest.approx(expected, abs=1e-3)
    assert [r["prediction"] for r in score_choices(model, examples[:1], 512, 0)] == [0]
