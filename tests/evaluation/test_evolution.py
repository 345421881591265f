"""What changed between two exams, worked by hand; the kinds of mistakes; when to stop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.evaluation.evolution import compare, kind_of, should_stop


def result(name="q", right=True, written=None, heldout=False, subject="s", parse_fail=False, entropy=0.0, margin=0.5):
    return {
        "name": name,
        "subject": subject,
        "heldout": heldout,
        "likeliest_right": right,
        "written_right": right if written is None else written,
        "parse_fail": parse_fail,
        "entropy": entropy,
        "margin": margin,
    }


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "known"),
        ({"right": False}, "knowledge"),
        ({"right": False, "parse_fail": True, "entropy": 1}, "knowledge"),
        ({"parse_fail": True}, "schema"),
        ({"parse_fail": True, "entropy": 1}, "schema"),
        ({"entropy": 0.51}, "ambiguous"),
        ({"entropy": 0.5}, "known"),
        ({"margin": 0.09}, "ambiguous"),
        ({"margin": 0.1}, "known"),
    ],
)
def test_kinds(changes, kind):
    assert kind_of(result(**changes), 0.5, 0.1) == kind


def exam(mine, heldout):
    """Results from texts of 1 (right) and 0 (wrong), a question each."""
    sides = [(mine, False), (heldout, True)]
    return [result(f"{h}{n}", x == "1", heldout=h) for marks, h in sides for n, x in enumerate(marks)]


def test_a_comparison_by_hand():
    """Mine: 4 wrong of which 3 repaired, 1 right and kept. Held out: 2 of 5 right turn wrong, 1 of 3 wrong right."""
    found = compare(exam("00001", "11111000"), exam("11101", "11100100"), tokens=2000)
    mine, heldout = found["mine"]["likelihood"], found["heldout"]["likelihood"]
    assert mine == pytest.approx(
        dict(
            before=0.2,
            after=0.8,
            gain=0.6,
            wrong_before=4,
            repaired=0.75,
            right_before=1,
            afr=0,
            gain_per_1k_tokens=0.3,
        )
    )
    assert (heldout["before"], heldout["after"], heldout["gain"]) == (5 / 8, 4 / 8, -1 / 8)
    assert (heldout["repaired"], heldout["afr"]) == (1 / 3, 2 / 5)
    assert heldout["gain_per_1k_tokens"] == -1 / 16 and found["heldout"]["questions"] == 8


def test_views_format_failures_and_subjects_are_told_apart():
    before = [
        result("a", True, False, subject="x", parse_fail=True),
        result("b", False, False, subject="y", parse_fail=True),
        result("h", heldout=True),
    ]
    after = [result("b", False, True, subject="y"), result("h", heldout=True), result("a", True, True, subject="x")]
    mine = compare(before, after)["mine"]
    assert (mine["likelihood"]["gain"], mine["written"]["gain"]) == (0, 1)
    assert (mine["parse_fail_before"], mine["parse_fail_after"]) == (1, 0)
    assert (mine["written"]["afr"], mine["written"]["gain_per_1k_tokens"]) == (None, None)
    assert list(mine["subjects"]) == ["x", "y"] and mine["subjects"]["x"]["likelihood"]["before"] == 1
    assert mine["subjects"]["y"]["written"]["repaired"] == 1 and mine["subjects"]["y"]["likelihood"]["repaired"] == 0


def test_no_passages_have_no_gain_per_token():
    assert compare(exam("0", "0"), exam("1", "1"), 0)["mine"]["likelihood"]["gain_per_1k_tokens"] is None


def test_exams_on_other_questions_are_refused():
    with pytest.raises(ValueError, match="not on the same questions, each once: 2 before, 3 after, 2 in both"):
        compare(exam("1", "1"), exam("11", "1"))
    with pytest.raises(ValueError, match="not on the same questions"):
        compare(exam("1", "1") * 2, exam("1", "1") * 2)
    with pytest.raises(ValueError, match="no question is held out"):
        compare(exam("1", ""), exam("1", ""))


marks = st.lists(st.sampled_from(["00", "01", "10", "11"]), min_size=1)


@given(marks, marks)
def test_repairs_and_flips_make_up_the_gain(mine, heldout):
    """n gain = wrong_before repaired - right_before afr, on each side and summed over its subjects."""
    before, after = (exam(*("".join(m[i] for m in side) for side in (mine, heldout))) for i in (0, 1))
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        a["subject"] = b["subject"] = f"s{number % 3}"
    found = compare(before, after)
    for side in found.values():
        change = side["likelihood"]
        assert 0 <= change["before"] <= 1 and change["gain"] == pytest.approx(change["after"] - change["before"])
        made_up = change["wrong_before"] * (change["repaired"] or 0) - change["right_before"] * (change["afr"] or 0)
        assert side["questions"] * change["gain"] == pytest.approx(made_up)
        parts = [(part["questions"], part["likelihood"]["gain"]) for part in side["subjects"].values()]
        assert sum(n for n, _ in parts) == side["questions"] == change["wrong_before"] + change["right_before"]
        assert sum(n * gain for n, gain in parts) == pytest.approx(made_up)
    back = compare(after, before)
    assert back["mine"]["likelihood"]["gain"] == pytest.approx(-found["mine"]["likelihood"]["gain"])


def rounds(*heldout):
    """A comparison for each (before, after) of the held-out marks."""
    return [compare(exam("1", before), exam("1", after)) for before, after in heldout]


def test_stop_rule():
    up, level, down = ("1000", "1100"), ("1100", "1100"), ("1100", "1000")
    assert should_stop([], 0.1, 0.0) is None
    assert should_stop(rounds(level), 0.1, None) is None
    assert should_stop(rounds(level, up), 0.1, None) is None and should_stop(rounds(up, level), 0.1, None) is None
    reason = should_stop(rounds(up, level, down), 0.1, None)
    assert reason.startswith("held-out accuracy changed by +0.00% and -25.00%") and "stop.delta (10.00%)" in reason
    assert should_stop(rounds(level, level), 0.0, None) is None  # no loss is not below a delta of 0
    assert "round 2 turned 50.0% of the held-out" in should_stop(rounds(up, down), 0.0, 0.4)
    assert should_stop(rounds(up, down), 0.0, 0.5) is None
    assert should_stop(rounds(("0000", "0000")), 0.0, 0.0) is None  # none was right: no AFR


def test_the_stop_rule_looks_at_the_view_it_is_given():
    kept = compare(exam("1", "11"), exam("1", "11"))
    kept["heldout"]["written"]["afr"] = 0.9
    assert should_stop([kept], 0.0, 0.5) is None and should_stop([kept], 0.0, 0.5, "written")
