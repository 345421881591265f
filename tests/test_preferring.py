"""Pairs are replayed among pairs and text among text; what cannot be mixed is refused with the reason."""

import pytest

from clray import preferring
from clray.errors import SpecError
from clray.spec import loading

STREAM = """
name: mixed
stages:
  - {name: text, kind: pretrain, data: x}
  - {name: task, kind: instruct, data: x}
  - {name: pairs, kind: align, data: x}
  - {name: more, kind: align, data: x}
  - {name: asking, kind: align, data: x, method: {replay: {kind: random, rows: 5}}}
  - {name: reading, kind: instruct, data: x, method: {replay: {kind: random, rows: 5}}}
"""
STAGES = {stage.name: stage for stage in loading.loads(STREAM).stages}


def stage(name):
    return STAGES[name]


def test_pairs_go_with_pairs_and_text_with_text():
    text, task, pairs = stage("text"), stage("task"), stage("pairs")
    assert preferring.alike(text, task) and preferring.alike(pairs, stage("more"))
    assert not preferring.alike(text, pairs) and not preferring.alike(pairs, task)


def test_replay_that_a_stage_asks_for_itself_needs_something_to_replay():
    text, pairs = stage("text"), stage("pairs")
    asking, reading = stage("asking"), stage("reading")
    with pytest.raises(SpecError, match=r"'asking': method.replay: its loss compares pairs .*\('text'\) have text"):
        preferring.check_replay(asking, [text])
    with pytest.raises(SpecError, match=r"'reading': method.replay: its loss is over tokens.*rejected answers"):
        preferring.check_replay(reading, [pairs])
    for earlier in ([], [text, pairs]):
        preferring.check_replay(asking, earlier)
    preferring.check_replay(pairs, [text])


def test_what_is_left_out_is_said():
    text, pairs, more = stage("text"), stage("pairs"), stage("more")
    assert preferring.left_out(more, [text, pairs]) == "replays preference pairs alone: text cannot stand in its loss"
    assert preferring.left_out(more, [pairs]) == preferring.left_out(more, [text]) == ""


def test_inscl_has_nothing_to_weigh_in_pairs():
    with pytest.raises(SpecError, match=r"'pairs': replay inscl .* random or balanced"):
        preferring.check_instructions(stage("pairs"))
