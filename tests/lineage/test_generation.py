"""A generation's record survives JSON, and the fields of newer versions."""

import json

from clray.lineage.generation import Generation

MADE = Generation(key="b" * 32, parent="a" * 32, index=1, stage_name="docs", base="b" * 32, training={"steps": 3})


def test_the_record_survives_json():
    assert Generation.from_dict(json.loads(json.dumps(MADE.to_dict()))) == MADE


def test_fields_of_newer_versions_are_left_out():
    assert Generation.from_dict({**MADE.to_dict(), "energy": 3}) == MADE


def test_complete_weights_need_nothing_below():
    assert MADE.complete and MADE.short == "b" * 10
    assert not Generation.from_dict({**MADE.to_dict(), "base": "a" * 32}).complete
