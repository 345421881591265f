"""A local cluster that does not answer in time is started again."""

import pytest

from clray import ray_session


@pytest.mark.parametrize(
    ("message", "tries"), [("The current node timed out during startup. This could happen", 2), ("no space left", 1)]
)
def test_a_slow_start_is_tried_again_and_nothing_else(monkeypatch, message, tries):
    import ray

    asked = []

    def init(**settings):
        asked.append(settings)
        if len(asked) == 1:
            raise Exception(message)

    monkeypatch.setattr(ray, "init", init)
    if tries == 1:
        with pytest.raises(Exception, match=message):
            ray_session.start_local(3)
    else:
        ray_session.start_local(3)
    assert [one["num_cpus"] for one in asked] == [3] * tries
