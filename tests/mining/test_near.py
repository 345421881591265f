"""Near-duplicates: Jaccard's index of word 5-shingles, and bands that never miss identical texts."""

import numpy as np

from clray.mining import near


def test_shingles_are_runs_of_five_words_or_the_whole_text():
    assert near.shingles("One two, three four FIVE six") == {"one two three four five", "two three four five six"}
    assert near.shingles("One two!") == near.shingles("one TWO") == {"one two"}


def test_jaccard_by_hand():
    """2 of 4 in common."""
    assert near.jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


def test_of_each_pair_the_later_is_out_whatever_became_of_the_earlier():
    """b is like a, c is like b but not like a: both b and c are out, in any order of judging."""
    words = [f"w{number}" for number in range(100)]
    texts = {(0, 0): " ".join(words), (0, 1): " ".join(words[12:]), (0, 2): " ".join(words[24:])}
    sets = {place: near.shingles(text) for place, text in texts.items()}
    assert near.jaccard(sets[0, 0], sets[0, 1]) > 0.8 > near.jaccard(sets[0, 0], sets[0, 2])
    out = set()
    near._judge(list(texts), out, texts.__getitem__)
    assert out == {(0, 1), (0, 2)}


def test_bands_differ_by_their_hashes_and_by_their_place():
    hashes = np.arange(2 * 3 * 5, dtype=np.uint64).reshape(2, 3, 5)
    hashes[1, 0] = hashes[0, 0]
    hashes[1, 1] = hashes[0, 0]
    bands = near._mixed(hashes)
    assert bands.shape == (2, 3) and bands[1, 0] == bands[0, 0] != bands[1, 1]
    assert len(set(bands.ravel().tolist())) == 5
