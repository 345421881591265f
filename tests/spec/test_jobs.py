"""Every ready stream of jobs/ is a valid spec, also in the orders that its head offers."""

import re
from pathlib import Path

import pytest

from clray.spec import loading

JOBS = sorted(job for job in (Path(__file__).parents[2] / "jobs").glob("*.yaml") if not job.name.startswith("sweep_"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_loads(job):
    stream = loading.load(job)
    assert stream.stages and (stream.tasks or stream.name == "quickstart")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_the_orders_that_its_head_offers_name_each_stage_once(job):
    offered = re.findall(r'"(order=\[[a-z0-9_, ]+\])"', job.read_text())
    for order in offered:
        assert loading.load(job, [order]).sequence != loading.load(job).sequence
