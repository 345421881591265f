"""Exact match and ROUGE-L in any script; rouge-score itself is the oracle for English."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from clray.data.wording import normalised
from clray.evaluation.text import AnyScript, exact_match, rouge_l

ENGLISH = RougeScorer(["rougeL"])


@pytest.mark.parametrize(
    ("prediction", "reference", "match"),
    [
        ("  Paris.\n", "paris", 1.0),
        ("“New   York”", "new york", 1.0),
        ("(B)", "b", 1.0),
        ("Ｐａｒｉｓ！", "paris", 1.0),
        ("北京。", "北京", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("the cat", "cat", 0.0),
        ("-3", "3", 0.0),
        (".5", "5", 0.0),
        ("C#", "C", 0.0),
        ("50%", "50", 0.0),
        ("...", "…", 1.0),
        ("( )", ") (", 0.0),
        ("", "yes", 0.0),
    ],
)
def test_exact_match(prediction, reference, match):
    assert exact_match(prediction, ["something else", reference]) == match


@given(st.text())
def test_a_text_matches_itself_and_normalising_twice_changes_nothing_visible(text):
    assert exact_match(text, [text]) == 1.0
    assert exact_match(normalised(text), [text]) == 1.0


@given(st.text(string.ascii_letters + string.digits + " .,'-_!\n"), st.text(string.ascii_letters + " .'_"))
def test_rouge_l_is_rouge_scores_own_for_english(prediction, reference):
    assert rouge_l(prediction, [reference]) == ENGLISH.score(reference, prediction)["rougeL"].fmeasure


EASTERN = ["今天天气很好", "とても良い", "좋은 아침입니다"]
SOUTHERN = ["สวัสดีครับ", "नमस्ते दुनिया"]


@pytest.mark.parametrize("text", [*EASTERN, *SOUTHERN, "Привет, мир"])
def test_an_identical_answer_scores_1_in_every_script(text):
    assert rouge_l(text, [text]) == 1.0
    assert len(AnyScript().tokenize(text)) > 1


def test_rouge_l_by_hand():
    """LCS of 北京大学 and 北京 is 2: precision 2/4, recall 2/2, F1 2*0.5*1/1.5 = 2/3; the best counts."""
    assert rouge_l("北京大学", ["上海", "北京"]) == pytest.approx(2 / 3)


def test_marks_stay_with_their_letter():
    assert AnyScript().tokenize("नमस्ते กี่ café") == ["नमस्ते", "กี่", "café"]


@pytest.mark.parametrize("references", [[], "a bare string"])
def test_references_must_be_a_list_of_texts(references):
    with pytest.raises(ValueError, match="references must be a list"):
        exact_match("a", references)
