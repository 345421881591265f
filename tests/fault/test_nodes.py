"""A node is gone: with a spare the group starts there, without one it waits or goes on smaller."""

import pytest

from looking import Clock, Look
from nodes import Driver, wait_for

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def lose_a_training_node(nodes, look, before):
    """Kills a node that trains once the stage is further than `before`; the step it had reached."""
    reached = look.reaches(before + 10)
    nodes.lose(nodes.training_nodes()[0])
    return reached


def test_a_lost_node(nodes, reference, write_stream, tmp_path_factory, reliability):
    """One after the other on the same cluster, which has two worker nodes again after each."""
    cases = {
        "node killed, a spare is there": ("compute.workers=1", "the group starts on the spare node"),
        "node killed, no spare, elastic 1..2": (
            "compute.workers={min: 1, max: 2}",
            "the group goes on with one worker",
        ),
        "node killed, no spare, two workers asked for": (
            "compute.workers=2",
            "waits and says so; goes on when a node joins",
        ),
    }
    for what, (workers, outcome) in cases.items():
        folder = tmp_path_factory.mktemp("node")
        look = Look(folder)
        spread = "compute.cpus_per_worker=2"
        driver = Driver(nodes.address, write_stream(folder), workers, spread, "compute.threads=1")
        before = lose_a_training_node(nodes, look, 0)
        clock = Clock()
        if "asked for" in what:
            wait_for(lambda driver=driver: "waits for 2 workers" in driver.output)
            nodes.add(3)
        lost = clock.until(lambda look=look, before=before: look.step() > before or look.generation())
        driver.finish()
        if len(nodes.workers) < 2:
            nodes.add(3)
        assert look.losses() == pytest.approx(reference.losses(), rel=1e-4)
        same = look.generation()["files"] == reference.generation()["files"]
        worst = max(abs(a - b) / b for a, b in zip(look.losses(), reference.losses(), strict=True))
        reliability(what, outcome, lost, "bit-equal" if same else f"losses equal within {worst:.1e}")
