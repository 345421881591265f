"""Little text for a large model is said, with what to do instead."""

import pytest

from clray.domain_size import small_domain

SEVEN_BILLION = {"parameters": 7_000_000_000}


def recipe(kind="pretrain", adapter="full"):
    return {"kind": kind, "adapter": {"kind": adapter}}


def test_a_hundred_megabytes_are_enough_for_seven_billion_weights():
    """25 million tokens of 4 bytes."""
    assert small_domain(SEVEN_BILLION, recipe(), 25_000_001) is None
    warning = small_domain(SEVEN_BILLION, recipe(), 24_000_000)
    assert "about 96 MB of text are little for training all of 7,000M weights" in warning
    assert "below about 100 MB" in warning and "lora" in warning and "replay" in warning


def test_the_limit_grows_with_the_model():
    """1.4 MB at 100 million weights."""
    assert small_domain({"parameters": 100_000_000}, recipe(), 360_000) is None
    assert "about 1.429 MB" in small_domain({"parameters": 100_000_000}, recipe(), 350_000)


@pytest.mark.parametrize("other", [recipe("instruct"), recipe(adapter="lora"), recipe(adapter="olora")])
def test_adapters_and_instructions_are_not_warned_of(other):
    assert small_domain(SEVEN_BILLION, other, 10) is None
