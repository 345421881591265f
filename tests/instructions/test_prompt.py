"""The question about an instruction, the form of its answer, and what is made of any other."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.endpoint import AnswerError
from clray.errors import UserError
from clray.instructions.prompt import POINTS, TAGS

parse, question, salvage, schema = TAGS.parse, TAGS.question, TAGS.salvage, TAGS.schema

ANSWERS = st.lists(st.fixed_dictionaries({"tag": st.text(), "explanation": st.text()}), max_size=5)


def answer(*tags):
    return json.dumps({"tags": [{"tag": tag, "explanation": "why"} for tag in tags]})


def test_the_instruction_stands_between_the_marks_as_it_is():
    instruction = 'Write {"a": 1} % {most}'
    asked = question(instruction, 5)
    assert f"[begin]\n{instruction}\n[end]" in asked
    assert "at most 5 " in asked and '{"tags": [{"tag": "...", "explanation": "..."}]}' in asked


def test_the_schema_is_one_and_says_how_many():
    jsonschema.Draft202012Validator.check_schema(schema(2))
    jsonschema.validate(json.loads(answer("a", "b")), schema(2))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(answer("a", "b", "c")), schema(2))


def test_tags_are_read_in_order_none_twice_none_blank():
    assert parse(answer("translation", " cosplay ", "", "translation", "  ", "翻译")) == [
        "translation",
        "cosplay",
        "翻译",
    ]
    assert parse('{"tags": []}') == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("Sure! Here are the tags: cosplay", "not JSON"),
        ('{"tags": [{"tag": "a", "explan', "not JSON"),
        ('["a"]', 'an object with "tags"'),
        ('{"tags": "a"}', 'an object with "tags"'),
        ('{"tags": [], "more": 1}', 'an object with "tags"'),
        ("null", 'an object with "tags"'),
        ('{"tags": ["a"]}', 'each of "tags"'),
        ('{"tags": [{"tag": "a"}]}', 'each of "tags"'),
        ('{"tags": [{"tag": 1, "explanation": "b"}]}', "are texts"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_anything_else_is_refused_and_shown(text, fault):
    with pytest.raises(AnswerError, match=fault) as raised:
        parse(text)
    assert isinstance(raised.value, UserError) and len(str(raised.value)) < 400


@given(ANSWERS, st.integers(0, 400))
def test_an_answer_cut_anywhere_gives_the_tags_complete_by_then(items, cut):
    whole = json.dumps({"tags": items}, ensure_ascii=False)
    tags = salvage(whole[:cut])
    assert tags == parse(whole)[: len(tags)]
    assert salvage(whole) == parse(whole)


def test_a_tag_half_written_is_none():
    assert salvage('{"tags":[{"tag":"a","explanation":"x{[y"},{"tag":"b","expl') == ["a"]
    assert salvage('{"tags":[{"tag":"a"') == salvage('{"ta') == salvage("") == salvage("{") == []


def test_points_have_one_field():
    assert POINTS.parse('{"points": [{"point": "a"}, {"point": "b"}, {"point": "a"}]}') == ["a", "b"]
    assert POINTS.salvage('{"points": [{"point": "a"}, {"poi') == ["a"]
    with pytest.raises(AnswerError, match='"point" is a text'):
        POINTS.parse('{"points": [{"point": 3}]}')
