"""InsInfo in numbers worked out by hand, and what holds for any tags."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.replay.insinfo import insinfo

TAGS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=8)


def test_three_instructions_by_hand():
    """N = 3; f: qa 3, movie 1, sum 2. So ln 3/3 + ln 3/1, ln 3/2, ln 3/2; a tag said twice counts once."""
    values = insinfo([["qa", "movie", "movie"], ["sum", "qa"], ["qa", "sum"]])
    assert values.dtype == np.float64
    assert values == pytest.approx([math.log(3), math.log(1.5), math.log(1.5)])


def test_no_instructions_no_tags_and_one_instruction():
    assert insinfo([]).shape == (0,)
    assert insinfo([[], []]).tolist() == [0, 0]
    assert insinfo([["qa", "movie"]]).tolist() == [0]


@given(TAGS)
def test_it_is_never_negative_and_no_more_than_a_rare_tag_each(tags):
    values = insinfo(tags)
    assert (values >= 0).all()
    assert all(v <= len(set(row)) * math.log(len(tags)) + 1e-12 for v, row in zip(values, tags, strict=True))


@given(TAGS)
def test_a_tag_that_all_carry_adds_nothing(tags):
    assert insinfo([[*row, "everywhere"] for row in tags]).tolist() == insinfo(tags).tolist()


@given(TAGS, st.randoms())
def test_the_order_of_instructions_and_of_tags_changes_nothing(tags, random):
    order = random.sample(range(len(tags)), len(tags))
    moved = insinfo([random.sample(tags[place], len(tags[place])) for place in order])
    assert moved.tolist() == insinfo(tags)[order].tolist()
