"""The set of a round: what each control takes, how much of it, and nothing that gives a held-out question away."""

import pytest

from clray.mining.building import EXTRACT, Asked, best_first, build, supporting, within
from clray.mining.leak import HeldOut
from clray.mining.shelf import Passage

SHARES = {"review": 0.25, "general": 0.25, "extractive": 1.0}


def asked(number):
    return Asked(
        name=f"q{number}",
        question=f"What is thing {number}?",
        answers=(f"answer{number}",),
        record={"instruction": "Answer.", "input": f"What is thing {number}?", "output": f"answer{number}"},
    )


def passage(number, text=None, tokens=10):
    return Passage(f"d{number:02d}", f"title {number}", text or f"First. The answer{number} stands here. Last.", tokens)


FOUND = {f"q{n}": [passage(n)] for n in range(4)}
GENERAL = [{"instruction": f"general {n}", "output": "yes"} for n in range(20)]


def made(control="none", heldout=(), **changes):
    wanted = {
        "mistakes": [asked(n) for n in range(4)],
        "known": [asked(n) for n in range(10, 30)],
        "found": FOUND,
        "passages": [passage(n) for n in range(4)],
        "general": GENERAL,
        "shares": SHARES,
        "heldout": HeldOut(heldout),
        "seed": 0,
        **changes,
    }
    return build(control=control, **wanted)


@pytest.mark.parametrize(
    ("control", "counts"),
    [
        ("none", [4, 4, 4, 4, 4]),
        ("random_documents", [4, 4, 4, 4, 4]),
        ("format_only", [0, 4, 0, 2, 2]),
        ("cpt_only", [4, 0, 0, 0, 0]),
        ("cit_only", [0, 4, 4, 4, 4]),
        ("naive", [0, 4, 0, 0, 0]),
    ],
)
def test_each_control_takes_its_kinds_in_their_shares(control, counts):
    """Of 8 mistakes' instructions review and general are a quarter of the whole each: 4 of 16."""
    rows = made(control).rows
    assert [len(rows[kind]) for kind in ("cpt", "normative", "extractive", "review", "general")] == counts


def test_rows_say_what_they_are_of():
    rows = made().rows
    assert rows["cpt"][0] == {"text": "title 0\n\nFirst. The answer0 stands here. Last.", "passage": "d00"}
    assert rows["normative"][1] == {**asked(1).record, "question": "q1"}
    assert rows["extractive"][2] == {
        "instruction": EXTRACT,
        "input": "First. The answer2 stands here. Last.\n\nQuestion: What is thing 2?",
        "output": "The answer2 stands here.",
        "question": "q2",
    }
    assert {row["question"] for row in rows["review"]} <= {f"q{n}" for n in range(10, 30)}


def test_nothing_shares_a_run_of_words_with_a_held_out_question():
    """The same set without the filter holds the leak: the test would fail with the filter off."""
    secret = "which of the many planets of our sun has the widest rings of them all"
    leaking = passage(0, f"It is asked {secret} and answered.")
    found = {**FOUND, "q0": [leaking]}
    heldout = [("held", secret, ("Saturn",))]
    passages = [leaking, passage(1)]
    general = [{"instruction": "Say it.", "output": secret}, *GENERAL]
    open_, closed = (
        made(heldout=apart, passages=passages, found=found, general=general[:2], shares={**SHARES, "general": 0.5})
        for apart in ((), heldout)
    )
    assert any(secret in row["text"] for row in open_.rows["cpt"])
    assert any(secret in row["output"] for row in open_.rows["general"]) and not open_.leaks
    assert not any(secret in str(row) for rows in closed.rows.values() for row in rows)
    assert {kind for kind, _ in closed.leaks} == {"cpt", "general"}
    assert {leak.question for _, leak in closed.leaks} == {"held"}


def test_without_general_rows_their_share_is_the_others():
    rows = made(general=[]).rows
    assert len(rows["review"]) == round(0.25 * 8 / 0.75) and not rows["general"]


def test_draws_follow_the_seed():
    assert made().rows == made().rows
    assert made(seed=1).rows["review"] != made().rows["review"]


def test_the_supporting_sentence_holds_the_answer_word_by_word():
    text = "Plants breathe. Their Stomata close at noon!\nThe stomatal cell stays."
    assert supporting(text, ["stomata"]) == "Their Stomata close at noon!"
    assert supporting(text, ["stom"]) is None and supporting(text, [""]) is None
    assert supporting(text, ["nothing", "stays"]) == "The stomatal cell stays."


def test_passages_come_best_first_and_each_once():
    a, b, c = (passage(n) for n in range(3))
    found = {"x": [(a, 1.0), (b, 0.9)], "y": [(b, 2.0), (c, 0.1)]}
    assert best_first(found) == [b, a, c]


def test_within_takes_whole_passages_and_at_least_one():
    several = [passage(n, tokens=10) for n in range(5)]
    assert within(several, 25) == several[:2] and within(several, 1) == several[:1] and within([], 5) == []
