"""Packing loses no token, predicts each exactly once, and fills rows well."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clray.data.packing import best_fit_decreasing, cut


def test_worked_by_hand():
    """Capacity 10, lengths 6 5 5 4 3: 6 opens a row, 5 and 5 share one, 4 fits the 6 exactly, 3 opens a third."""
    assert best_fit_decreasing([6, 5, 5, 4, 3], 10) == [[0, 3], [1, 2], [4]]


def test_a_long_example_is_cut_with_one_token_of_context():
    pieces = cut([25], 10)
    assert [(p.start, p.stop, p.context) for p in pieces] == [(0, 10, 0), (9, 19, 1), (18, 25, 1)]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(2, 64))
def test_every_token_but_the_first_is_predicted_exactly_once(lengths, capacity):
    seen = {}
    for piece in cut(lengths, capacity):
        assert piece.length <= capacity
        for token in range(piece.start + max(1, piece.context), piece.stop):
            seen[(piece.example, token)] = seen.get((piece.example, token), 0) + 1
    assert seen == {(e, t): 1 for e, length in enumerate(lengths) for t in range(1, length)}


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200))
@settings(max_examples=50)
def test_rows_hold_every_piece_once_within_capacity(lengths):
    rows = best_fit_decreasing(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 64) + len(lengths) * 0 + 1 + sum(n > 32 for n in lengths)
