"""What a prepared stage says of itself."""

from types import SimpleNamespace

import pytest

from clray.data.batches import plan_batches
from clray.preparation import _predictions


@pytest.mark.parametrize(
    ("kind", "length", "said"),
    [
        ("lwf", {"epochs": 2}, "64 tokens of earlier predictions at 2,000 targets, 1.0 MiB"),
        ("lwf", {"steps": 2}, "at about 400 targets, 0.2 MiB"),
        ("lwf", {"tokens": 2500}, "at about 500 targets, 0.2 MiB"),
        ("der", {"epochs": 1}, "at 500 targets, at least 0.2 MiB"),
        ("der", {"steps": 1}, "at about 50 targets, at least 0.0 MiB"),
    ],
)
def test_the_note_counts_the_targets_that_teachers_are_asked_at(kind, length, said):
    """40 sequences of 10,000 tokens hold 1,500 own targets and 500 replayed ones; a step sees 4 sequences, a tenth.

    Kept are 64 ids and 65 values of 4 bytes: 2,000 * 4 * 129 / 2^20 = 0.98 MiB.
    """
    origins = [{"targets": 1500}, {"targets": 500}]
    packed = SimpleNamespace(rows=40, provenance={"origins": origins})
    batches = plan_batches(length, num_rows=40, num_tokens=10_000, size=4, seed=0)
    [note] = _predictions({"kind": kind, "top_k": 64}, 1, packed, batches)
    assert note.startswith(f"regulariser {kind} keeps 64 tokens") and said in note


def test_other_regularisers_keep_no_predictions():
    assert not _predictions({"kind": "l2"}, 1, None, None)
