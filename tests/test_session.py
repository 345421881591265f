"""Training and scoring take turns on the GPUs where there are too few for both."""

from types import SimpleNamespace

import pytest

from clray.lineage.store import Store
from clray.session import Session
from clray.spec import loading

TEXT = """
name: a
compute: {workers: 2, gpus_per_worker: 1}
evaluation: {workers: 1, gpus_per_worker: 1}
stages: [{name: x, kind: pretrain, data: builtin:docs}]
"""


class Recorded:
    """A training group or pool that only counts its releases."""

    def __init__(self):
        self.releases = 0

    def release(self, wait=True):
        self.releases += 1


@pytest.mark.parametrize(("gpus", "turns"), [(2, True), (3, False)])
def test_who_must_go_home(monkeypatch, gpus, turns):
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus})
    session = Session(SimpleNamespace(stream=loading.loads(TEXT), store=None), print)
    session.group, pool = Recorded(), Recorded()
    session.__dict__["pool"] = pool
    session.make_room_for_scoring()
    session.make_room_for_training()
    assert (session.group.releases, pool.releases) == (int(turns), int(turns))
    assert ("pool" in session.__dict__) is not turns


@pytest.mark.parametrize(
    ("change", "stays"), [("seed=3", True), ("evaluation.workers=2", False), ("storage=elsewhere", False)]
)
def test_another_plan_keeps_the_workers_that_it_asks_for_as_well(tmp_path, change, stays):
    first, then = (
        SimpleNamespace(stream=stream, store=Store(str(tmp_path / stream.storage)))
        for stream in (loading.loads(TEXT), loading.loads(TEXT, [change]))
    )
    session = Session(first, print)
    session.group, session.__dict__["pool"] = group, pool = Recorded(), Recorded()
    session.turn_to(then)
    assert (session.group is group) is stays and ("pool" in session.__dict__) is stays
    assert (group.releases, pool.releases) == (int(not stays), int(not stays))
