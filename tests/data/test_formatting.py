"""Records become the same tokens in training and measuring; loss falls on the answer only."""

import pytest

from clray.data import formatting
from clray.errors import DataError
from clray.spec.format import Format

RECORD = {"instruction": "red green blue", "input": "one two", "output": "sun"}
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_only_the_answer_and_its_end_are_targets(tokenizer):
    encoded = formatting.encode_example(tokenizer, RECORD, Format(), 100, "f:1")
    answer = [i for i, t in zip(encoded.ids, encoded.targets, strict=True) if t]
    assert tokenizer.decode(answer[:-1]) == " sun" and answer[-1] == tokenizer.eos_token_id
    prompt = [i for i, t in zip(encoded.ids, encoded.targets, strict=True) if not t]
    assert prompt == formatting.encode_prompt(tokenizer, RECORD, Format())


def test_an_empty_input_leaves_no_gap():
    assert formatting.prompt_text({"instruction": "go", "input": ""}, Format()) == "go\n\nAnswer:"


def test_overlong_examples_are_refused_cut_or_left_out(tokenizer):
    long = {**RECORD, "input": "moon " * 200}
    with pytest.raises(DataError, match=r"f:3: the prompt .* leaves no room for its answer .* in 40 tokens; raise"):
        formatting.encode_example(tokenizer, long, Format(), 40, "f:3")
    assert formatting.encode_example(tokenizer, long, Format(overlong="skip"), 40, "f:3") is None
    with pytest.raises(DataError, match=r"set format\.overlong to skip$"):
        formatting.encode_example(tokenizer, {**long, "output": "sun " * 40}, Format(overlong="truncate"), 40, "f:3")
    cut = formatting.encode_example(tokenizer, long, Format(overlong="truncate"), 40, "f:3")
    assert len(cut.ids) == 40
    assert tokenizer.decode(cut.ids).endswith("Answer: sun<|endoftext|>") and "red green" in tokenizer.decode(cut.ids)


def test_chat_messages_take_loss_on_every_assistant_turn(tokenizer):
    tokenizer.chat_template = CHATML
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "sun"},
        {"role": "assistant", "content": "moon"},
    ]
    encoded = formatting.encode_example(tokenizer, {"messages": turns}, Format(prompt="chat"), 100, "f:1")
    answers = tokenizer.decode([i for i, t in zip(encoded.ids, encoded.targets, strict=True) if t])
    assert answers == "two</assistant>moon</assistant>"
    assert tokenizer.decode(encoded.ids).startswith("<user>one</user><assistant>two")


def test_a_tokenizer_without_chat_template_says_so(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        formatting.encode_prompt(tokenizer, RECORD, Format(prompt="chat"))
