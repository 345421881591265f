"""What a shared attention selects, and what its training curves hold beside the loss."""

from __future__ import annotations

import html
import math
import re
from typing import Any

import pytest
from attention_outcomes import make_attentive, make_selection
from report_outcomes import make_outcome
from test_page import Page

from clray.report.attention import attentions
from clray.report.figures import course_groups
from clray.report.page import render
from clray.report.view import View


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_attentive()


def section(text: str, name: str = "attention") -> str:
    """One section of the page."""
    return text.split(f'<section id="{name}">')[1].split("</section>")[0]


def test_tasks_stand_in_the_order_of_their_blocks_and_probes_last(outcome: dict[str, Any]) -> None:
    """The outcome names the probe first and the tasks backwards; own blocks weigh 0.8, the two others 0.1 each."""
    [found] = attentions(View.of(outcome))
    assert found.line.is_stream and not found.is_wide
    assert [head.name for head in found.heads] == ["1 s1", "2 s2", "3 s3"]
    assert [(number, task) for number, task, _ in found.rows] == [("1", "s1"), ("2", "s2"), ("3", "s3")]
    assert [(number, task) for number, task, _ in found.others] == [("", "trivia")]
    assert [cell.text for cell in found.rows[1][2]] == ["0.10", "0.80", "0.10"]
    assert [cell.shade for cell in found.rows[1][2]] == [0.1, 0.8, 0.1]
    assert [cell.is_taught for cell in found.rows[1][2]] == [False, True, False]
    assert [cell.is_taught for cell in found.others[0][2]] == [False] * 3


def test_a_cell_tells_its_weight_and_how_often_it_is_the_heaviest(outcome: dict[str, Any]) -> None:
    outcome["lines"][0]["selection"]["heaviest"][2] = [0.25, 0.745, 0.005]
    [found] = attentions(View.of(outcome))
    assert [cell.title for cell in found.rows[0][2]][:2] == [
        "s1 on block 1 s1, its own: mean weight 0.800, the heaviest block of 100.0% of the examples",
        "s1 on block 2 s2: mean weight 0.100, the heaviest block of 0.0% of the examples",
    ]
    assert found.rows[1][2][1].title.endswith("the heaviest block of 74.5% of the examples")
    assert html.escape(found.rows[1][2][1].title) in section(render(outcome))


def test_the_page_outlines_own_blocks_and_sets_other_tasks_apart(outcome: dict[str, Any]) -> None:
    outcome["lines"][0]["selection"]["accuracy"] = 0.9342
    text = render(outcome)
    Page(text)
    part = section(text)
    taught, others = part.split('<tbody class="apart">')
    assert len(re.findall(r'<td class="weight taught ', taught)) == 3 and "taught " not in others
    assert "no block of their own" in others and "trivia" in others and "trivia" not in taught
    assert "selection accuracy 93.4%" in part and "0 <i></i> 1" in part
    assert '<a href="#attention">Attention</a>' in text


def test_each_line_that_selects_has_a_map(outcome: dict[str, Any]) -> None:
    outcome["lines"][1]["selection"] = {**make_selection(["s1", "s2"], ["s2"]), "accuracy": None}
    found = attentions(View.of(outcome))
    assert [(a.line.name, a.accuracy) for a in found] == [("stream", "100.0%"), ("lora", "")]
    assert [task for _, task, _ in found[1].rows] == ["s2"] and [task for _, task, _ in found[1].others] == ["s1"]
    part = section(render(outcome))
    assert part.count('<figure class="matrix">') == 2 and part.count("selection accuracy") == 1


def test_without_probes_nothing_is_set_apart() -> None:
    part = section(render(make_attentive(probe=None)))
    assert "apart" not in part and "no block of their own" not in part and "Below stand" not in part


def test_fifteen_tasks_are_a_wide_table_and_a_small_page() -> None:
    text = render(make_attentive(15))
    Page(text)
    [found] = attentions(View.of(make_attentive(15)))
    assert found.is_wide and section(text).count('<td class="weight') == 16 * 15
    assert len(text.encode()) < 1_500_000


def test_a_weight_that_is_no_number_is_a_dash_and_zeros_are_pale(outcome: dict[str, Any]) -> None:
    outcome["lines"][0]["selection"]["attention"][3] = [1.0, math.nan, 0.004]
    [found] = attentions(View.of(outcome))
    assert [(cell.text, cell.shade) for cell in found.rows[0][2]] == [("1.00", 1.0), ("–", None), ("0.00", 0.004)]
    assert section(render(outcome)).count('class="weight nil') == 1


def test_the_new_block_s_weight_is_drawn_from_zero_to_one(outcome: dict[str, Any]) -> None:
    """Its stages end at 1, 0.45 and 0.3; the control has no such curve and no place in the panels."""
    added, newest = course_groups(View.of(outcome))
    assert [panel.title for panel in newest.panels] == ["s1", "s2", "s3"]
    assert [[c.label for c in panel.curves] for panel in newest.panels] == [["1.00"], ["0.45"], ["0.30"]]
    assert {tuple(text for _, text in panel.y_ticks) for panel in newest.panels} == {("0", "0.25", "0.5", "0.75", "1")}
    assert [c.line.name for panel in newest.panels for c in panel.curves] == ["stream"] * 3
    assert [panel.title for panel in added.panels] == ["s2", "s3"]
    assert [panel.curves[0].label for panel in added.panels] == ["0.025", "0.037"]
    assert all(panel.y_ticks[0][1] == "0" for panel in added.panels)
    text = section(render(outcome), "loss")
    assert text.index("Added to the loss") < text.index("Weight of the new block")
    assert len(re.findall('<figure class="panel"', text)) == 3 + 2 + 3


def test_losses_are_as_before(outcome: dict[str, Any]) -> None:
    """What stands beside the loss in the curves changes nothing of its panels."""
    plain = make_attentive()
    for generation in plain["lines"][0]["generations"]:
        for row in generation["curve"]:
            for column in ("extra_loss", "newest_block_weight"):
                row.pop(column, None)
    before, after = (section(render(one), "loss").split("<h3>")[0].strip() for one in (plain, outcome))
    assert before == after and before.count('<figure class="panel"') == 3
    assert course_groups(View.of(plain)) == []


@pytest.mark.parametrize(("value", "label"), [(1234.0, "1.23\u202fk"), (0.004568, "0.0046"), (12.344, "12.34")])
def test_a_penalty_of_any_size_has_a_short_label(outcome: dict[str, Any], value: float, label: str) -> None:
    for row in outcome["lines"][0]["generations"][3]["curve"]:
        row["extra_loss"] = value
    added, _ = course_groups(View.of(outcome))
    assert added.panels[-1].curves[0].label == label


def test_o_lora_adds_to_the_loss_and_selects_nothing(outcome: dict[str, Any]) -> None:
    stream = outcome["lines"][0]
    stream["selection"] = None
    for generation in stream["generations"]:
        for row in generation["curve"]:
            row.pop("newest_block_weight", None)
    text = render(outcome)
    assert "Added to the loss" in text and "Weight of the new block" not in text and "Attention" not in text


@pytest.mark.parametrize("is_named", [True, False])
def test_outcomes_that_know_nothing_of_selection(is_named: bool) -> None:
    outcome = make_outcome()
    for line in outcome["lines"]:
        line |= {"selection": None} if is_named else {}
    text = render(outcome)
    Page(text)
    assert 'id="attention"' not in text and 'href="#attention"' not in text
    assert "Added to the loss" not in text and "Weight of the new block" not in text


def test_names_are_escaped(outcome: dict[str, Any]) -> None:
    evil = '<script>alert("1")</script>'
    for line in outcome["lines"]:
        line["selection"] = make_selection([evil, "other" + evil], [evil])
    text = render(outcome)
    assert "script" not in Page(text).tags and 'alert("1")' not in text
    assert html.escape(evil, quote=False) in section(text).replace("&#34;", '"')


def test_pseudo_samples_are_shown_as_text_and_cut(outcome: dict[str, Any]) -> None:
    samples = [{"instruction": "<b>say</b>", "input": "x" * 300}, {"instruction": "", "input": "short"}]
    outcome["lines"][0]["generations"][2]["pseudo"] = {"asked": 20, "kept": 2, "samples": samples}
    part = section(render(outcome))
    assert "Pseudo-samples" in part and "2 of 20" in part
    assert "&lt;b&gt;say&lt;/b&gt;" in part and "<b>say</b>" not in part
    assert "x" * 200 in part and "x" * 250 not in part and "…" in part and "short" in part


def test_without_a_generator_there_are_no_pseudo_samples(outcome: dict[str, Any]) -> None:
    assert "Pseudo-samples" not in render(outcome)
