"""The order in which trials share most, and how many stage trainings sharing saves."""

from hypothesis import given
from hypothesis import strategies as st

from clray.search.ordering import Trainings, order, trainings

CHAINS = [("a", "b"), ("d", "e"), ("a", "c"), ("d", "f"), ("a", "b2")]


def test_trainings_with_and_without_sharing():
    """Five chains of two stages are ten trainings; a and d are shared, so seven are needed; a and b are there."""
    assert trainings(CHAINS, {"a", "b", "x"}) == Trainings(alone=10, needed=7, there=2)
    assert (trainings(CHAINS).saved, trainings(CHAINS, {"a"}).left) == (3, 6)


def test_one_lane_goes_depth_first_in_the_order_in_which_branches_came():
    assert order(CHAINS) == [0, 2, 4, 1, 3]


def test_several_lanes_begin_at_different_branches():
    """Depth first is 0 2 4 1 3, in two pieces 0 2 4 and 1 3, which are taken in turn."""
    assert order(CHAINS, lanes=2) == [0, 1, 2, 3, 4]


def test_nothing_to_order():
    assert order([], lanes=3) == []


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), max_size=10), st.integers(1, 4))
def test_every_chain_comes_once_and_one_lane_never_leaves_a_branch_it_has_to_come_back_to(tails, lanes):
    chains = [tuple(str(tail[: n + 1]) for n in range(len(tail))) for tail in tails]
    assert sorted(order(chains, lanes)) == list(range(len(chains)))
    visited = [chains[number] for number in order(chains)]
    for depth in range(1, 5):
        beginnings = [chain[:depth] for chain in visited if len(chain) >= depth]
        runs = [b for n, b in enumerate(beginnings) if n == 0 or beginnings[n - 1] != b]
        assert len(runs) == len(set(runs))
