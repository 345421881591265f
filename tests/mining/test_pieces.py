"""Pieces of a text: they cover it, overlap, keep to the limit, and do not begin inside a word where that can be."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clray.mining.pieces import cut


def spaced(text):
    """Tokens of at most three characters, as a subword tokenizer cuts: blanks go with the word behind them."""
    offsets, start = [], 0
    for place in range(1, len(text) + 1):
        if place == len(text) or text[place] == " " or place - start == 3:
            offsets.append((start, place))
            start = place
    return offsets


@given(st.text("ab ", min_size=1, max_size=400), st.integers(16, 64), st.data())
def test_pieces_cover_the_text_within_the_limit_and_overlap(text, tokens, data):
    overlap = data.draw(st.integers(0, tokens // 2))
    offsets = spaced(text)
    found = list(cut(text, offsets, tokens, overlap))
    assert found[0].start == 0 and found[-1].stop == len(text)
    assert all(0 < piece.num_tokens <= tokens for piece in found)
    for one, other in pairwise(found):
        shared = sum(other.start <= start < one.stop for start, _ in offsets)
        assert one.start < other.start and overlap <= shared <= overlap + 16


def test_a_cut_moves_back_to_the_beginning_of_a_word():
    text = "abcdef " * 40
    found = list(cut(text, spaced(text), 16, 4))
    assert all(text[: piece.start].endswith(" ") or text[piece.start] == " " or not piece.start for piece in found)


def test_a_text_without_borders_is_cut_where_the_limit_falls():
    text = "a" * 300
    assert [piece.num_tokens for piece in cut(text, spaced(text), 40, 10)] == [40, 40, 40]


def test_a_short_text_is_one_piece_and_an_empty_one_none():
    assert [piece[:] for piece in cut("ab", [(0, 1), (1, 2)], 16, 4)] == [(0, 2, 2)]
    assert list(cut("", [], 16, 4)) == []
