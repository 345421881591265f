"""The leak filter: no text to learn from shares a long run of words with a held-out question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.mining.leak import HeldOut, Leak
from texts import WORDS

LONG = "Which part of the plant cell takes up the light that drives the making of sugar from water and air?"
EIGHT = "What is the boiling point of pure water?"
SEVEN = "What is the boiling point of water?"
HELD_OUT = HeldOut([("long", LONG, ["the chloroplast"]), ("eight", EIGHT, ["100 °C"]), ("seven", SEVEN, ["100 °C"])])


def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not():
    run = "plant cell takes up the light that drives the making of sugar from"
    assert HELD_OUT.leak(f"It is known: {run} that day.") == Leak("long", run)
    assert HELD_OUT.leak(f"It is known: {run.removesuffix(' from')} that day.") is None


def test_case_punctuation_and_compatibility_forms_do_not_hide_a_leak():
    assert HELD_OUT.leak("…WHAT IS — the “boiling” point\nof: pure ｗａｔｅｒ!") == Leak(
        "eight", "what is the boiling point of pure water"
    )


def test_a_short_question_leaks_whole_and_from_eight_words_on():
    assert HELD_OUT.leak("We ask: what is the boiling point of pure water here?").question == "eight"
    assert HELD_OUT.leak("We ask: what is the boiling point of pure alcohol here?") is None
    assert HELD_OUT.leak(SEVEN) is None


def test_a_question_leaks_with_its_answer_behind_it_where_it_is_too_short_alone():
    for label in ("", "A: ", "Answer — "):
        found = HELD_OUT.leak(f"Q: What is the boiling point of water?\n{label}100 °C.")
        assert found.question == "seven" and found.run.startswith("what is") and found.run.endswith("100 c")


def test_a_short_answer_alone_is_no_leak_and_a_long_one_is():
    assert HELD_OUT.leak("Light is taken up by the chloroplast at 100 °C") is None
    answer = "it is taken up by the green pigment which lies in stacks inside the chloroplast"
    assert HeldOut([("q", "Where?", [answer])]).leak(f"Indeed {answer}.").question == "q"
    assert HeldOut([("q", "Where?", [answer[: answer.index(" inside")]])]).leak(f"Indeed {answer}") is None


def test_text_without_spaces_is_counted_by_character():
    held_out = HeldOut([("zh", "光合作用的主要场所是细胞中的哪一个部分", ["叶绿体"])])
    assert held_out.leak("书中写道：光合作用的主要场所是细胞中的叶绿体。") == Leak(
        "zh", " ".join("光合作用的主要场所是细胞中")
    )
    assert held_out.leak("光合作用在叶绿体中进行。") is None


def test_the_texts_to_leave_out_are_numbered():
    assert HELD_OUT.leaks(["clean", EIGHT, "", f"x {LONG}"]).keys() == {1, 3}
    assert HeldOut([]).leaks([EIGHT, LONG]) == {}


words = st.lists(st.sampled_from(WORDS), min_size=0, max_size=30)


@given(words, words, words)
def test_a_text_that_holds_a_question_whole_leaks_whatever_stands_around_it(before, question, after):
    held_out = HeldOut([("q", " ".join(question), [])])
    leak = held_out.leak(" ".join([*before, *question, *after]))
    assert (leak is not None) == (len(question) >= 8)


@given(st.lists(words, max_size=4), words)
def test_a_leak_is_found_exactly_where_a_run_is_shared(questions, text):
    """Against the definition, word by word: runs of min(13, length) words of questions of 8 words or more."""
    joined = f" {' '.join(text)} "
    shared = [
        number
        for number, question in enumerate(questions)
        for size in [min(13, len(question))]
        if size >= 8 and any(f" {' '.join(question[i : i + size])} " in joined for i in range(len(question) - size + 1))
    ]
    leak = HeldOut((str(number), " ".join(question), []) for number, question in enumerate(questions)).leak(
        " ".join(text)
    )
    assert (leak is None) == (not shared)
    if leak:
        assert f" {leak.run} " in joined and leak.run in " ".join(questions[int(leak.question)])


@given(words)
def test_one_strange_word_in_every_run_hides_it(question):
    """The filter is for copies: it says nothing where each run of eight is broken."""
    broken = [word if index % 8 else "zzz" for index, word in enumerate(question)]
    assert HeldOut([("q", " ".join(question), [])]).leak(" ".join(broken)) is None


@pytest.mark.parametrize("size", [8, 12, 13, 14, 40])
def test_a_question_of_any_length_leaks_by_itself(size):
    text = " ".join(f"w{number}" for number in range(size))
    assert HeldOut([("q", text, [])]).leak(text) == Leak("q", " ".join(text.split()[: min(13, size)]))


def test_what_is_held_out_has_an_address():
    one, other = HeldOut([("a", EIGHT, []), ("b", LONG, [])]), HeldOut([("c", LONG, []), ("d", EIGHT.upper(), [])])
    assert one.digest == other.digest != HELD_OUT.digest
