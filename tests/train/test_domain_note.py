"""A prepared stage says that its text is little for the model."""

import pytest

from clray import domain_size
from clray.planner import make_plan
from clray.preparation import prepare_stage

pytestmark = pytest.mark.ray


def test_a_prepared_pretrain_stage_carries_the_warning(stream, monkeypatch):
    plan = make_plan(stream)
    line = plan.lines[0]

    def notes():
        return [prepare_stage(planned, plan.store, line).notes for planned in line.stages]

    assert notes() == [(), ()]
    monkeypatch.setattr(domain_size, "BYTES_A_WEIGHT", 1e3)
    (warning,), none = notes()
    assert "are little for training all of" in warning and none == ()
