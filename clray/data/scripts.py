"""Scripts without spaces between words, as characters of a class of `regex`: the one place that names them."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Nothing stands between words: for the search each character is one, as in Lucene's standard tokenizer."""
UNPARTED = UNSPACED + r"\p{Tibetan}"
"""And Tibetan, whose mark parts syllables. The search takes those; phrases are runs of characters."""
BY_CHARACTER = UNPARTED + r"\p{Hangul}"
"""And Korean, which writes endings onto words: answers are compared character by character."""
