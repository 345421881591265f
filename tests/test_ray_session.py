"""A local cluster that does not answer in time is started again, and what a failed start leaves running is ended."""

import subprocess

import pytest

from clray import ray_session
from clray.errors import ResourceError

SLOW = "The current node timed out during startup. This could happen"


class Init:
    """In place of `ray.init`: it leaves a process behind, and fails as often as it is told."""

    def __init__(self, message, failures):
        self.message, self.failures, self.left = message, failures, []

    def __call__(self, **settings):
        assert settings["num_cpus"] == 3
        self.left.append(subprocess.Popen(["sleep", "60"]))
        if len(self.left) <= self.failures:
            raise Exception(self.message)


@pytest.fixture
def started(monkeypatch):
    """Starts a cluster with such an `init`, without waiting between the tries; what it left is ended afterwards."""
    import ray

    made = []

    def start(message, failures):
        made.append(Init(message, failures))
        monkeypatch.setattr(ray, "init", made[0])
        ray_session.start_local.retry_with(wait=None)(3)

    yield start, made
    for process in made[0].left:
        process.kill()
        process.wait()


def test_a_slow_start_is_tried_again(started):
    start, made = started
    start(SLOW, 1)
    first, second = made[0].left
    assert first.wait(10) == -9 and second.poll() is None


@pytest.mark.parametrize(("message", "tries"), [(SLOW, 3), ("no space left", 1)])
def test_what_goes_on_failing_is_said(started, message, tries):
    start, made = started
    with pytest.raises(ResourceError if tries > 1 else Exception, match="3 times in a row" if tries > 1 else message):
        start(message, 9)
    assert [process.wait(10) for process in made[0].left] == [-9] * tries
