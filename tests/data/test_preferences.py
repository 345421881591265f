"""Preference records of all shapes become pairs; both halves of a pair lie in one packed sequence."""

import json

import numpy as np
import pytest

from clray.data import formatting, mixture, preferences, records
from clray.data.batches import PackedShards
from clray.data.manifest import read_parts
from clray.errors import DataError
from clray.lineage.store import Store
from clray.replay.draw import draw
from clray.spec.format import Format
from clray.spec.source import Source
from texts import texts, write_lines

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "one"), ("assistant", "sun"), ("assistant", "cat")))
PAIR = {"instruction": "red green blue", "chosen": "sun", "rejected": "cat dog"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("raw", "pair"),
    [
        ({"prompt": "one"}, {"instruction": "one"}),
        ({"prompt": "one", "instruction": "Reply."}, {"instruction": "Reply.", "input": "one"}),
        ({"prompt": "one", "instruction": "one"}, {"instruction": "one"}),
        ({"instruction": "Reply.", "input": "one"}, {"instruction": "Reply.", "input": "one"}),
        ({"prompt": [USER]}, {"messages": [USER]}),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, {"messages": [USER]}),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, {"messages": [USER]}),
        ({"prompt": "one", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, {"messages": [USER]}),
        ({"prompt": "one", "chosen": [GOOD], "rejected": [BAD]}, {"instruction": "one"}),
    ],
)
def test_every_shape_of_a_record_is_one_pair(raw, pair):
    found = preferences.normalise({"chosen": "sun", "rejected": "cat", **raw}, "f:1")
    assert found == {**pair, "chosen": "sun", "rejected": "cat"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"prompt": "one", "chosen": "a"}, "f:1: 'rejected' must be text.*found nothing"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "f:1: 'prompt' must be text.*not empty"),
        ({"chosen": "a", "rejected": "b"}, "f:1: 'prompt' must be text.*found nothing"),
        ({"prompt": "one", "chosen": "a", "rejected": "a "}, "are the same, which prefers nothing"),
        ({"chosen": [USER, GOOD], "rejected": [GOOD, BAD]}, "answer different prompts"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "last message of 'chosen' must be the assistant's, found 'user'"),
        ({"prompt": [USER, GOOD], "chosen": "a", "rejected": "b"}, "prompt ends with the assistant's turn"),
        ({"prompt": ["one"], "chosen": "a", "rejected": "b"}, "'prompt' must be text, or a list of"),
    ],
)
def test_a_record_that_is_no_pair_is_refused(raw, message):
    with pytest.raises(DataError, match=message):
        preferences.normalise(raw, "f:1")


def test_both_halves_have_the_prompt_and_loss_on_their_answer(tokenizer):
    encoded, first = preferences.encode(tokenizer, PAIR, Format(), 100, "f:1")
    prompt = formatting.encode_prompt(tokenizer, PAIR, Format())
    halves = encoded.ids[:first], encoded.ids[first:]
    for half, answer in zip(halves, (" sun", " cat dog"), strict=True):
        assert half[: len(prompt)] == prompt
        assert tokenizer.decode(half[len(prompt) : -1]) == answer and half[-1] == tokenizer.eos_token_id
    wanted = [i >= len(prompt) for half in halves for i in range(len(half))]
    assert encoded.targets == wanted


def test_a_pair_that_is_too_long_is_refused_cut_or_left_out(tokenizer):
    long = {**PAIR, "instruction": "red green " + "moon " * 200}
    with pytest.raises(DataError, match=r"f:3: the pair takes \d+ tokens \(twice its prompt of .* one sequence of 60"):
        preferences.encode(tokenizer, long, Format(), 60, "f:3")
    assert preferences.encode(tokenizer, long, Format(overlong="skip"), 60, "f:3") is None
    cut, first = preferences.encode(tokenizer, long, Format(overlong="truncate"), 60, "f:3")
    assert 58 <= len(cut.ids) <= 60
    for half, answer in ((cut.ids[:first], " sun"), (cut.ids[first:], " cat dog")):
        text = tokenizer.decode(half)
        assert "red green" in text and text.endswith(f"Answer:{answer}<|endoftext|>")
    with pytest.raises(DataError, match="the pair takes"):
        preferences.encode(tokenizer, {**PAIR, "chosen": "moon " * 90}, Format(overlong="truncate"), 60, "f:3")


def test_chat_answers_end_as_the_template_ends_them(tokenizer):
    tokenizer.chat_template = CHATML
    record = {"messages": [USER, GOOD, USER], "chosen": "moon", "rejected": "star"}
    encoded, first = preferences.encode(tokenizer, record, Format(), 200, "f:1")
    taught = [[i for i, t in zip(half, mask, strict=True) if t] for half, mask in _halves(encoded, first)]
    assert [tokenizer.decode(ids) for ids in taught] == ["moon</assistant>", "star</assistant>"]
    assert tokenizer.decode(encoded.ids).startswith("<user>one</user><assistant>sun</assistant><user>one</user>")
    tokenizer.chat_template = CHATML.replace("{{ m.content }}", "{{ messages | length }}")
    with pytest.raises(DataError, match="the chat template rewrites the prompt"):
        preferences.encode(tokenizer, record, Format(), 200, "f:1")


def _halves(encoded, first):
    return ((encoded.ids[s], encoded.targets[s]) for s in (slice(0, first), slice(first, None)))


@pytest.fixture(scope="module")
def sets(tiny_model, tmp_path_factory, ray_cluster):
    """Two record sets of pairs, prepared."""
    folder = tmp_path_factory.mktemp("pairs")
    store, found = Store(str(folder / "store")), []
    for seed in range(2):
        rows = [{"prompt": t, "chosen": t.split()[0], "rejected": " ".join(t.split()[1:])} for t in texts(40, seed, 12)]
        source = Source(source=write_lines(folder / f"{seed}.jsonl", rows))
        spec = records.RecordSpec(
            kind="align",
            sources=records.open_sources([source], store),
            tokenizer=str(tiny_model),
            tokenizer_digest="t",
            form=Format(),
            limit=128,
        )
        found.append((spec, records.prepare(spec, store)))
    return store, found


@pytest.mark.ray
def test_a_packed_sequence_holds_whole_pairs_of_all_origins(sets):
    """Each pair of the mixture stands once, both halves in a row of segments, replayed ones among them."""
    store, [(_, own), (_, old)] = sets
    new, past = (mixture.index_of(store, name, m) for name, m in (("new", own), ("old", old)))
    (drawn,) = draw({"kind": "random", "share": 0.2}, new, [past], seed=0)
    spec = mixture.MixtureSpec(stage="new", own=own, past=(old,), draws=(drawn,), sequence_length=128)
    manifest = mixture.prepare(spec, store)
    assert [o["rows"] for o in manifest.provenance["origins"]] == [40, 10]
    wanted = {0: read_parts(store, own), 1: read_parts(store, old).take(drawn.rows)}
    pairs = {
        (origin, tuple(ids), first)
        for origin, table in wanted.items()
        for ids, first in zip(table["ids"].to_pylist(), table["num_chosen"].to_pylist(), strict=True)
    }
    shards, seen = PackedShards(store, manifest), []
    for row in range(len(shards)):
        sequence = shards[row]
        ends = np.cumsum(sequence.segments)
        assert len(ends) % 2 == 0 and sum(sequence.segments) == len(sequence.ids) <= 128
        for k in range(0, len(ends), 2):
            start = ends[k - 1] if k else 0
            assert sequence.origins[k] == sequence.origins[k + 1]
            seen.append((sequence.origins[k], tuple(sequence.ids[start : ends[k + 1]]), sequence.segments[k]))
            assert not sequence.targets[start] and not sequence.targets[ends[k]]
            assert sequence.targets[[ends[k] - 1, ends[k + 1] - 1]].all()
    assert len(seen) == 50 and set(seen) == pairs
    assert sum(shards.num_targets) == manifest.targets == sum(shards.num_units)


@pytest.mark.ray
def test_real_pairs_are_read_and_cut(data_dir, tiny_model, tmp_path, ray_cluster):
    store = Store(str(tmp_path / "store"))
    path = data_dir / "preferences" / "llamafactory_dpo_en.jsonl"
    spec = records.RecordSpec(
        kind="align",
        sources=records.open_sources([Source(source=str(path))], store),
        tokenizer=str(tiny_model),
        tokenizer_digest="t",
        form=Format(overlong="truncate"),
        limit=8192,
    )
    made, lines = records.prepare(spec, store), [json.loads(line) for line in path.read_text().splitlines()]
    assert made.rows + made.provenance["overlong"] + made.provenance["duplicates"] == len(lines)
    assert made.rows > 0.9 * len(lines)
