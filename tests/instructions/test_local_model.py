"""Tags of a local model: whatever its weights say, the answer is the JSON asked for."""

from __future__ import annotations

import json
import shutil

import jsonschema
import pytest

from clray.errors import ModelError
from clray.instructions.local_model import ModelTags
from clray.instructions.prompt import POINTS, TAGS
from clray.instructions.tagger import make_tagger

TEXTS = ["Classify the sentiment of the review.", "把句子翻译成英语。", 'Write {"a": "\\u00e9"} as YAML.']
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"


def spec(model, **changes):
    return {"kind": "model", "model": str(model), "revision": None, "max_new_tokens": 400, "most": 2, **changes}


@pytest.fixture(scope="module")
def roomy(tiny_model, tmp_path_factory):
    """The tiny model with a context that holds the question: rotary positions have no weights."""
    return changed(tiny_model, tmp_path_factory.mktemp("roomy"), "config.json", max_position_embeddings=2048)


def changed(model, target, name, **values):
    folder = shutil.copytree(model, target / "model")
    known = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**known, **values}))
    return folder


def test_random_weights_give_answers_of_the_schema(roomy):
    tagger = ModelTags(spec(roomy, max_new_tokens=1000))
    for text in TEXTS:
        answer = json.loads(tagger._answer(tagger._prompt(text)))
        jsonschema.validate(answer, TAGS.schema(2))
        assert 1 <= len(answer["tags"]) <= 2


def test_a_model_kept_in_the_store_has_no_revision(roomy):
    """As InsCL's workers give it: `keep_models` takes the revision away, which was a KeyError."""
    kept = {name: value for name, value in spec(roomy).items() if name != "revision"}
    assert make_tagger(kept)(TEXTS[:1]) == make_tagger(spec(roomy))(TEXTS[:1])


def test_points_are_of_their_own_schema(roomy):
    tagger = ModelTags(spec(roomy, max_new_tokens=300), POINTS)
    answer = json.loads(tagger._answer(tagger._prompt("Where is light taken up?")))
    jsonschema.validate(answer, POINTS.schema(2))
    assert make_tagger(spec(roomy, max_new_tokens=300, form="points"))(["Where is light taken up?"]) == [
        list(dict.fromkeys(item["point"].strip() for item in answer["points"] if item["point"].strip()))
    ]


def test_the_same_instruction_has_the_same_tags_beside_any_others(roomy):
    tags = make_tagger(spec(roomy))(TEXTS)
    assert all(len(row) <= 2 and all(isinstance(tag, str) and tag for tag in row) for row in tags)
    assert make_tagger(spec(roomy))(["", *TEXTS[::-1], TEXTS[0]]) == [[], *tags[::-1], tags[0]]


def test_an_answer_that_ran_out_of_tokens_gives_what_is_complete(roomy):
    assert ModelTags(spec(roomy, max_new_tokens=16))(TEXTS[:1]) == [[]]
    whole = ModelTags(spec(roomy, max_new_tokens=1000))(TEXTS)
    for tokens in (100, 200, 300):
        cut = ModelTags(spec(roomy, max_new_tokens=tokens))(TEXTS)
        assert all(part == full[: len(part)] for part, full in zip(cut, whole, strict=True))


def test_the_chat_template_is_used_where_there_is_one(roomy, tmp_path):
    chat = changed(roomy, tmp_path, "tokenizer_config.json", chat_template=CHAT)
    for model, start, end in [(roomy, "You tag", "[end]\n"), (chat, "<user>You tag", "[end]<bot>")]:
        tagger = ModelTags(spec(model))
        prompt = tagger._tokenizer.decode(tagger._prompt(TEXTS[0])[0], skip_special_tokens=True)
        assert prompt.startswith(start) and prompt.endswith(end) and TEXTS[0] in prompt


def test_a_long_instruction_is_cut_to_the_context(roomy):
    tagger = ModelTags(spec(roomy))
    prompt = tagger._prompt("word " * 5000)
    assert prompt.shape[1] <= 2048 - 400
    assert tagger._tokenizer.decode(prompt[0]).endswith("[end]\n")


def test_a_context_too_short_for_the_question_is_named(tiny_model):
    with pytest.raises(ModelError, match=r"context of 128 tokens: too short .*; lower max_new_tokens"):
        ModelTags(spec(tiny_model))(TEXTS)


def test_what_cannot_be_loaded_is_named(tiny_model, tmp_path):
    with pytest.raises(ModelError, match=r"tagger model '.*nowhere' cannot be loaded"):
        ModelTags(spec(tmp_path / "nowhere"))(TEXTS)
    pickled = shutil.copytree(tiny_model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        ModelTags(spec(pickled))(TEXTS)


def test_code_of_a_model_is_never_run(tiny_model, tmp_path):
    folder = changed(tiny_model, tmp_path, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ModelError, match="cannot be loaded"):
        ModelTags(spec(folder))(TEXTS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tokens"), [("TinyStories-Instruct-3M-chat", 100), ("stories260K", 200)])
def test_real_small_models_always_parse(data_dir, name, tokens):
    """Their tags mean nothing, but are tags; byte-level and SentencePiece tokenizers with byte fallback."""
    tagger = ModelTags(spec(data_dir / "models" / name, max_new_tokens=tokens))
    for text in TEXTS:
        answer = tagger._answer(tagger._prompt(text))
        assert answer.startswith('{"tags":[{"tag":"')
    assert all(isinstance(tag, str) and tag for row in tagger(TEXTS[:1]) for tag in row)


def test_a_vocabulary_without_braces_is_named(data_dir):
    with pytest.raises(ModelError, match=r"cannot write JSON: its vocabulary lacks \{ \} \[ \]"):
        ModelTags(spec(data_dir / "models" / "TinyStories-656K", max_new_tokens=16))(TEXTS)
