"""How many trials run at one time: what each takes beside what there is, and what can never fit."""

import pytest

from clray.errors import ResourceError
from clray.search.room import cpus_here, room_here, room_on_cluster, threads_here
from clray.spec.loading import validate


def stream(**compute):
    evaluation = compute.pop("evaluation", {})
    stage = {"name": "one", "kind": "pretrain", "data": ["a.jsonl"]}
    return validate({"name": "words", "stages": [stage], "compute": compute, "evaluation": evaluation})


def test_on_a_cluster_a_trial_takes_its_workers_its_actors_and_its_driver():
    """Two workers of two CPUs, one actor and the driver are 5.01 CPUs; of 16 one is left for data, so two fit."""
    found = room_on_cluster(stream(workers=2, cpus_per_worker=2), {"CPU": 16.0})
    assert found.trials == 2 and str(found) == "2 trials at a time: each takes 5.01 CPUs, there are 16 CPUs"


def test_the_scarcest_kind_decides_and_at_once_is_the_most():
    """Eight GPUs are two trials of four training GPUs, or of three and one that scores."""
    plenty = {"CPU": 100.0, "GPU": 8.0}
    assert room_on_cluster(stream(workers=4, gpus_per_worker=1), plenty).trials == 2
    assert room_on_cluster(stream(workers=3, gpus_per_worker=1, evaluation={"gpus_per_worker": 1}), plenty).trials == 2
    assert room_on_cluster(stream(), plenty, at_once=3).trials == 3


def test_gpus_that_suffice_for_one_trial_alone_are_used_in_turns():
    """Four training GPUs and one that scores are more than four, but they take turns."""
    found = room_on_cluster(
        stream(workers=4, gpus_per_worker=1, evaluation={"gpus_per_worker": 1}), {"CPU": 9, "GPU": 4}
    )
    assert found.trials == 1


def test_an_elastic_group_counts_as_its_largest_and_one_trial_may_have_less():
    elastic = stream(workers={"min": 2, "max": 8})
    assert room_on_cluster(elastic, {"CPU": 30.0}).trials == 3
    assert room_on_cluster(elastic, {"CPU": 5.0}).trials == 1


def test_what_can_never_fit_is_refused_with_the_numbers(monkeypatch):
    wide = stream(workers=8)
    with pytest.raises(ResourceError, match=r"a trial takes 9.01 CPUs .* and the cluster has 4 CPUs; lower"):
        room_on_cluster(wide, {"CPU": 4.0})
    monkeypatch.setenv("CLRAY_AUTOSCALING", "1")
    assert room_on_cluster(wide, {"CPU": 4.0}).trials == 1


def test_here_training_and_scoring_take_turns_on_the_cores():
    """Of 8 cores, trials of two workers are four; each worker then has one thread, and a local cluster 14 CPUs."""
    two = stream(workers=2)
    found = room_here(two, cores=8, gpus=0)
    assert found.trials == 4 and threads_here(two, found, cores=8) == 1 and cpus_here(two, found, cores=8) == 14
    assert room_here(two, cores=1, gpus=0).trials == 1
    with pytest.raises(ResourceError, match="a trial takes 2 GPUs and this machine has 1"):
        room_here(stream(workers=2, gpus_per_worker=1), cores=8, gpus=1)


def test_threads_are_shared_by_all_trials():
    one = stream()
    assert threads_here(one, room_here(one, cores=8, gpus=0, at_once=2), cores=8) == 4
