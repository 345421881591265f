"""The book of what is known about texts: asked once, kept under the digest of the text, in any process."""

import pyarrow as pa

from clray.data.book import Book
from clray.lineage.store import Store


class Asked:
    """Finds the letters of a text, and remembers what it was asked."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return [sorted(set(text)) for text in texts]


def test_a_text_is_asked_once_whoever_asks_again(tmp_path):
    asked = Asked()
    book = Book(Store(str(tmp_path)), "letters", pa.string(), asked)
    assert book.of(["ba", "c", "ba"]).to_pylist() == [["a", "b"], ["c"], ["a", "b"]]
    assert book.of(["d", "c"]).to_pylist() == [["d"], ["c"]]
    other = Book(Store(str(tmp_path)), "letters", pa.string(), asked)
    assert other.of(["d", "ba"]).to_pylist() == [["d"], ["a", "b"]]
    assert asked.texts == ["ba", "c", "d"]


def test_no_texts_and_empty_values_are_fine(tmp_path):
    book = Book(Store(str(tmp_path)), "letters", pa.string(), lambda texts: [[] for _ in texts])
    assert book.of([]).to_pylist() == []
    assert book.of(["x"]).to_pylist() == [[]]
