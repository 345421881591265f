"""The section about rounds of learning from mistakes: gains, leads, funnel, subjects, examples."""

from __future__ import annotations

import copy
import html
import math
import re
from typing import Any

import pytest
from evolving_outcomes import SUBJECTS, make_change, make_evolved, make_example, make_round
from report_outcomes import make_outcome
from test_page import Page

from clray.report.evolving import evolutions, gained
from clray.report.evolving_examples import examples
from clray.report.evolving_figures import funnel, funnel_rows, subjects
from clray.report.page import render
from clray.report.view import View

EVIL = '<script>alert("1")</script><img src=x onerror=alert(1)>'


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_evolved()


def section(text: str) -> str:
    """The section alone."""
    return text.split('<section id="evolving">')[1].split("</section>")[0]


def generations(outcome: dict[str, Any], line: int = 0) -> list[dict[str, Any]]:
    """The generations of a line that rounds made."""
    return [g for g in outcome["lines"][line]["generations"] if g.get("evolved")]


def test_without_rounds_there_is_no_section() -> None:
    plain = make_outcome()
    for generation in plain["lines"][0]["generations"][1:]:
        generation["evolved"] = None
    text = render(plain)
    assert evolutions(View.of(plain)) == []
    assert 'id="evolving"' not in text and "#evolving" not in text


def test_the_section_stands_between_transfer_and_mixture(outcome: dict[str, Any]) -> None:
    before = copy.deepcopy(outcome)
    text = render(outcome)
    Page(text)
    assert text.index('id="loss"') < text.index('id="evolving"') < text.index('id="mixture"')
    assert '<a href="#evolving">Mistakes</a>' in text
    assert outcome == before


def test_the_table_by_hand(outcome: dict[str, Any]) -> None:
    """100 held-out questions, 40 right. Round 1 of the stream repairs 15 of 60 and flips 4 of 40: 51 right, +11.
    The controls repair 9 of 60: 45 right, +5; so the stream is 6 ahead. Its error is
    sqrt(15 + 4 - 11^2 / 100) / 100 = 4.2%, that of a control sqrt(13 - 25 / 100) / 100 = 3.6%."""
    [found] = evolutions(View.of(outcome))
    assert found.stage == "science" and found.line.is_stream and found.who == "the stream"
    assert [number for number, _ in found.heldout] == [1, 2]
    stream, control, _ = found.heldout[0][1]
    assert [row.line.name for row in found.heldout[0][1]] == ["stream", "format_only", "random_documents"]
    assert stream.likelihood[0] == "40.0 → 51.0" and stream.likelihood[1].text == "+11.0"
    assert stream.likelihood[1].error == "4.2" and stream.likelihood[1].judgement == "good"
    assert stream.repaired == ("25.0%", "of 60 that were wrong; written answers: 13.3% of 60")
    assert stream.afr[0] == "10.0%" and stream.failures == "20.0 → 5.0" and stream.lead is None
    assert control.likelihood[1].text == "+5.0" and control.likelihood[1].judgement == "even"
    assert control.lead is not None and control.lead.text == "+6.0" and control.lead.judgement == "even"
    assert control.lead.error == f"{math.hypot(4.219, 3.571):.1f}"


def test_gain_for_each_thousand_tokens(outcome: dict[str, Any]) -> None:
    """+11.0% for 12 thousand tokens; format_only reads nothing."""
    [found] = evolutions(View.of(outcome))
    assert [row.per_thousand for row in found.heldout[0][1]] == ["+0.92", "–", "+0.42"]


def test_a_lead_counts_from_before_the_first_round(outcome: dict[str, Any]) -> None:
    """Rounds go on from what they reached: the lead in round 2 is that of both rounds."""
    [found] = evolutions(View.of(outcome))
    ends = [generations(outcome, line)[1]["evolved"]["change"]["heldout"]["likelihood"]["after"] for line in (0, 1)]
    lead = found.heldout[1][1][1].lead
    assert lead is not None and lead.value == pytest.approx(ends[0] - ends[1])
    assert found.cards[0].gain.value == pytest.approx(ends[0] - 0.4)
    assert [line.name for line, *_ in found.cards[0].rivals] == ["format_only", "random_documents"]
    assert found.cards[0].rivals[0][2].value == pytest.approx(ends[0] - ends[1])


def test_the_questions_learnt_from_stand_apart_with_their_kinds(outcome: dict[str, Any]) -> None:
    [found] = evolutions(View.of(outcome))
    row = found.mine[0][1][0]
    assert row.kinds == ["120", "60", "20", "200"] and row.questions == "400"
    apart = section(render(outcome)).split('<figure class="rounds learnt">')[1].split("</figure>")[0]
    assert "Learnt from" in apart and "ambiguous" in apart and "stream ahead" not in apart
    assert "stream ahead" in section(render(outcome))


def test_rates_that_do_not_exist_are_dashes(outcome: dict[str, Any]) -> None:
    """Nothing was wrong before: nothing can be repaired. Nothing was asked: there is no accuracy at all."""
    told = generations(outcome)[0]["evolved"]["change"]
    told["heldout"]["likelihood"] = make_change(0, 100, 0, 3)
    told["mine"] |= {"questions": 0, "likelihood": make_change(0, 0, 0, 0), "written": make_change(0, 0, 0, 0)}
    told["mine"] |= {"parse_fail_before": None, "parse_fail_after": None}
    [found] = evolutions(View.of(outcome))
    heldout, mine = found.heldout[0][1][0], found.mine[0][1][0]
    assert heldout.repaired[0] == "–" and heldout.afr[0] == "3.0%" and heldout.likelihood[1].text == "−3.0"
    assert heldout.per_thousand == "–"
    assert mine.likelihood[0] == mine.failures == "– → –" and mine.likelihood[1].error == ""
    text = render(outcome)
    Page(text)
    assert "None" not in section(text) and "nan" not in section(text)


def test_a_line_that_ends_early_says_why(outcome: dict[str, Any]) -> None:
    generations(outcome)[0]["evolved"]["stop"] = "the gain was below 0.01 in two rounds running"
    generations(outcome)[1]["evolved"] = None
    [found] = evolutions(View.of(outcome))
    assert [(line.name, number) for line, number, _ in found.stops] == [("stream", 1)]
    assert "ended after round 1: the gain was below 0.01 in two rounds running." in section(render(outcome))
    lead = found.heldout[1][1][0].lead
    assert lead is not None and lead.text == "–"


def test_a_shared_round_belongs_to_the_first_line(outcome: dict[str, Any]) -> None:
    """A control that differs only later shares the generations of all rounds."""
    outcome["lines"][1]["generations"] = [{**g, "built": False} for g in outcome["lines"][0]["generations"]]
    [found] = evolutions(View.of(outcome))
    assert [row.line.name for row in found.heldout[0][1]] == ["stream", "random_documents"]
    assert [line.name for line, *_ in found.cards[0].rivals] == ["random_documents"]


def test_two_halves_are_one_round(outcome: dict[str, Any]) -> None:
    """cpt_then_cit trains a round as two stages, and the second is compared with what was before both."""
    for line in outcome["lines"][2:]:
        for generation, told in zip(line["generations"][2:], (make_round(1, repaired=0.1), make_round(1)), strict=True):
            generation["evolved"] = told
    [found] = evolutions(View.of(outcome))
    halves = found.heldout[0][1][2:]
    assert [row.note for row in halves] == ["science-1", "science-2"]
    own = [one for one in found.rounds if one.line.name == "random_documents"]
    assert gained(own, "heldout", "likelihood").error == "4.2"
    assert [row.lead.text for row in halves if row.lead] == ["+9.0", "0.0"]


def test_rounds_of_a_control_alone(outcome: dict[str, Any]) -> None:
    for line in (0, 2):
        for generation in outcome["lines"][line]["generations"]:
            generation.pop("evolved", None)
    [found] = evolutions(View.of(outcome))
    assert found.who == "format_only" and found.lead is None and found.cards[0].rivals == []
    assert [row.note for row in found.heldout[0][1]] == [""]
    text = render(outcome)
    Page(text)
    assert "format_only ahead" not in text and "stream ahead" not in text


def test_several_stages_are_told_apart(outcome: dict[str, Any]) -> None:
    for line in range(3):
        generations(outcome, line)[1]["evolved"] |= {"stage": "history", "round": 1}
    found = evolutions(View.of(outcome))
    assert [(one.stage, [number for number, _ in one.heldout]) for one in found] == [("science", [1]), ("history", [1])]
    text = render(outcome)
    Page(text)
    assert '<h3 class="stage">history</h3>' in text


def test_the_funnel_by_hand(outcome: dict[str, Any]) -> None:
    [found] = evolutions(View.of(outcome))
    steps = funnel(found.own[0])
    assert [(step.name, step.total) for step in steps] == [
        ("questions", "400"),
        ("mistakes learnt from", "200"),
        ("points looked up", "520"),
        ("passages found", "310"),
        ("rows to train on", "738"),
    ]
    assert [part.text for part in steps[0].parts] == ["120 knowledge", "60 ambiguous", "20 schema", "200 known"]
    assert steps[1].parts == [] and steps[1].notes == ["all that are not known"]
    assert steps[2].notes == ["2.6 for each mistake"]
    assert [(part.text, part.is_leak) for part in steps[3].parts] == [
        ("310 found", False),
        ("12 left out, leaks", True),
    ]
    rows = ["298 cpt", "200 normative", "180 extractive", "60 review", "3 left out, leaks"]
    assert [part.text for part in steps[4].parts] == rows
    assert len(re.findall('<figure class="funnel">', render(outcome))) == 2


def test_mistakes_over_the_limit_are_told() -> None:
    outcome = make_evolved(controls=(), rounds=1)
    generations(outcome)[0]["evolved"]["mistakes"] = 150
    [found] = evolutions(View.of(outcome))
    assert [part.text for part in funnel(found.own[0])[1].parts] == ["150 taken", "50 over the limit"]


def test_a_control_without_knowledge_has_an_empty_funnel(outcome: dict[str, Any]) -> None:
    [found] = evolutions(View.of(outcome))
    steps = funnel(next(one for one in found.rounds if one.line.name == "format_only"))
    assert [step.total for step in steps[2:4]] == ["0", "0"] and steps[2].notes == [] and steps[3].parts == []
    assert [(line.name, number) for line, number, _ in funnel_rows(found)] == [
        (name, number) for name in ("stream", "format_only", "random_documents") for number in (1, 2)
    ]


def test_subjects_by_hand(outcome: dict[str, Any]) -> None:
    """Of 60 in biology 24 are right, 9 of 36 repaired, 2 of 24 flipped: 31. The axis runs over all that is drawn."""
    for line in range(3):
        generations(outcome, line)[1]["evolved"] = None
    [found] = evolutions(View.of(outcome))
    chart = subjects(found)
    assert chart is not None and [(row.name, row.questions) for row in chart.rows] == [
        ("biology", "60"),
        ("physics", "40"),
    ]
    biology = chart.rows[0]
    assert biology.text == "40.0 → 51.7" and biology.judgement == "good" and biology.between == []
    assert biology.start == pytest.approx(dict((text, x) for x, text in chart.axis)["40"])
    assert [title for _, title in biology.rivals] == ["format_only: 45.0%", "random_documents: 45.0%"]
    assert chart.others == "" and chart.has_rivals


def test_rounds_between_are_small_dots(outcome: dict[str, Any]) -> None:
    chart = subjects(evolutions(View.of(outcome))[0])
    assert chart is not None and [len(row.between) for row in chart.rows] == [1, 1]


def test_many_subjects_are_drawn_up_to_a_limit() -> None:
    """30 subjects of 31 down to 2 questions: the ten smallest, 2 to 11, are 65 questions in all."""
    outcome = make_evolved(rounds=1)
    many = {f"subject {n}": n for n in range(2, 32)}
    for line in range(3):
        generations(outcome, line)[0]["evolved"] = make_round(subjects=many)
    chart = subjects(evolutions(View.of(outcome))[0])
    assert chart is not None and [row.questions for row in chart.rows] == [str(n) for n in range(31, 11, -1)]
    assert chart.others.startswith("Not drawn: 10 more subjects of 2 to 11 questions each, 65 in all, together ")
    text = render(outcome)
    Page(text)
    assert text.count('<div class="subject ') == 21 and chart.others in text


@pytest.mark.parametrize("named", [{}, {"biology": 100}])
def test_fewer_than_two_subjects_are_not_drawn(named: dict[str, int]) -> None:
    outcome = make_evolved(rounds=1)
    for line in range(3):
        change = generations(outcome, line)[0]["evolved"]["change"]
        change["heldout"]["subjects"] = {name: change["heldout"]["subjects"]["biology"] for name in named}
    text = render(outcome)
    assert subjects(evolutions(View.of(outcome))[0]) is None
    assert "By subject" not in text


def test_examples_of_the_last_round_come_first(outcome: dict[str, Any]) -> None:
    found = examples(evolutions(View.of(outcome))[0])
    assert [(one.number, one.counts) for one in found] == [(n, "1 repaired, 1 still wrong") for n in (2, 1)]
    repaired, wrong = (some[0] for _, some in found[0].groups)
    assert repaired.options == [("metaphase", True), ("anaphase", False)]
    assert [(a.when, a.is_right, a.written, a.p_gold) for a in repaired.answers] == [
        ("before", False, "anaphase", "0.31"),
        ("after", True, "metaphase", "0.78"),
    ]
    assert wrong.is_heldout and not wrong.passages
    part = section(render(outcome))
    assert "Nothing is looked up for held-out questions." in part and "<summary>1 passage</summary>" in part
    assert part.count('<details class="examples"') == 2 and part.count('<details class="examples" open') == 1


def test_without_examples_there_is_no_heading(outcome: dict[str, Any]) -> None:
    for generation in generations(outcome):
        generation["evolved"]["examples"] = {"repaired": [], "still_wrong": [], "flipped": []}
    assert "Examples" not in section(render(outcome))


def test_long_texts_are_cut_and_many_examples_left_out(outcome: dict[str, Any]) -> None:
    long = "word " * 5000
    told = make_example(
        long,
        options=[long],
        gold=long,
        points=[long],
        passages=[{"title": long, "text": long}] * 3,
        after={"written": long, "p_gold": None},
    )
    for line in range(3):
        for generation in generations(outcome, line):
            generation["evolved"]["examples"] = {kind: [told] * 50 for kind in ("repaired", "still_wrong", "flipped")}
    found = examples(evolutions(View.of(outcome))[0])
    assert [len(some) for _, some in found[0].groups] == [5, 5, 5]
    example = found[0].groups[0][1][0]
    assert len(example.passages[0][1]) <= 301 and example.passages[0][1].endswith("word…")
    assert example.answers[1].p_gold == "–"
    assert len(section(render(outcome))) < 250_000


def test_hostile_text_is_only_text() -> None:
    """Names, subjects, sentences and all that a model or a document says."""
    outcome = make_evolved(controls=(EVIL,), rounds=1)
    for line in range(2):
        told = generations(outcome, line)[0]["evolved"]
        told |= {"stage": EVIL, "stop": EVIL, "control": EVIL}
        told["change"]["heldout"]["subjects"] = {
            f"{EVIL}{name}": side for name, side in told["change"]["heldout"]["subjects"].items()
        }
        answer = {"written": EVIL, "p_gold": 0.5}
        example = make_example(EVIL, options=[EVIL, "b"], gold=EVIL, before=answer, after=answer)
        example |= {"points": [EVIL], "passages": [{"title": EVIL, "text": EVIL}]}
        told["examples"] = {"repaired": [example], "still_wrong": [{**example, "options": []}], "flipped": [example]}
    text = render(outcome)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert all(reference.startswith("#") for reference in page.references)
    assert section(text).replace("&#34;", '"').count(html.escape(EVIL, quote=False)) > 20


def test_the_builders_shares_come_from_whole_answers() -> None:
    """What the other tests rest on."""
    told = make_round()["change"]["heldout"]
    assert told["questions"] == sum(SUBJECTS.values()) == 100
    assert told["likelihood"]["wrong_before"] + told["likelihood"]["right_before"] == 100
