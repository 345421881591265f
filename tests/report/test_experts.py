"""Single-task experts, and matrices that are measured sparsely."""

from __future__ import annotations

import re
from typing import Any

import pytest
from replay_outcomes import make_replayed, measured_sparsely

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.metrics import continual_metrics
from clray.report.figures import forgetting_panels
from clray.report.heatmap import heatmaps
from clray.report.page import render
from clray.report.summary import headline
from clray.report.view import View


@pytest.fixture
def outcome() -> dict[str, Any]:
    """Sixteen stages, measured on their own generation and at the end, with experts; metrics as they come out."""
    outcome = measured_sparsely(make_replayed(16))
    outcome["experts"] = {f"s{n}": 0.8 for n in range(1, 17)}
    for line in outcome["lines"]:
        line["metrics"] = continual_metrics(ScoreMatrix.from_dict(line["matrix"]), outcome["experts"])
    return outcome


def test_experts_stand_below_each_matrix(outcome: dict[str, Any]) -> None:
    outcome["experts"] = {"s1": 0.81234}
    text = render(outcome)
    rows = re.findall(r'<tr class="experts">(.*?)</tr>', text, re.S)
    assert len(rows) == 3 and all("single-task expert" in row for row in rows)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", rows[0]) == ["81.2", *["–"] * 15]
    assert "s1, trained alone: 81.2% ROUGE-L" in rows[0]


def test_an_outcome_without_experts_says_nothing_of_them() -> None:
    text = render(make_replayed())
    assert "single-task expert" not in text and "Relative gain" not in text
    assert "single-task expert" not in render({**make_replayed(), "experts": {}})


def test_relative_gain_is_a_card_and_the_other_measures_have_names(outcome: dict[str, Any]) -> None:
    """The stream's relative gain, 100/15 sum R[16][i] / 0.8, comes in percent already."""
    line = outcome["lines"][0]
    wanted = sum(line["matrix"]["R"][-1][:15]) / 15 / 0.8 * 100
    [block] = headline(View.of(outcome))
    card = next(card for card in block.cards if card.measure.key == "relative_gain")
    assert (card.text, card.suffix, card.direction) == (f"{wanted:.1f}", "%", "higher is better")
    assert line["metrics"]["rouge_l"]["relative_gain"] == pytest.approx(wanted)
    others = {other.title: other for other in block.others}
    single = others["Forward transfer, single-task"]
    assert "single-task expert" in single.meaning
    assert single.values[0] == f"{100 * line['metrics']['rouge_l']['fwt_single_task']:.1f}"
    assert "Forward transfer, single-task" in render(outcome)


def test_a_measure_that_no_line_has_is_no_card(outcome: dict[str, Any]) -> None:
    """Forgetting from the best score needs every generation; the sentence takes it since each task was taught."""
    [block] = headline(View.of(outcome))
    assert [card.measure.key for card in block.cards] == [
        "average_performance", "bwt", "plasticity", "relative_gain"
    ]  # fmt: skip
    lost = outcome["lines"][0]["metrics"]["rouge_l"]["forgetting_first"]
    assert f"has lost {100 * lost:.1f} points on average" in block.sentence


def test_curves_join_the_measured_points_alone(outcome: dict[str, Any]) -> None:
    """Task s5 is measured at 0, 5 and 16: a faint line to its stage, and one from there to the end."""
    curve = forgetting_panels(View.of(outcome))[4].curves[-1]
    assert len(curve.dots) == 3 and [dot.is_taught for dot in curve.dots] == [False, True, False]
    ends = [f"{dot.x:g} {dot.y:g}" for dot in curve.dots]
    assert curve.faint == f"M{ends[0]}L{ends[1]}" and curve.path == f"M{ends[1]}L{ends[2]}"


def test_cells_that_were_not_measured_are_dashes(outcome: dict[str, Any]) -> None:
    """16 x 17 cells, of which the base's row, the last one and 15 more of the diagonal are measured."""
    heat = heatmaps(View.of(outcome))[0]
    cells = [cell for _, _, row in heat.rows for cell in row]
    assert heat.has_gaps and sum(cell.shade is None for cell in cells) == 16 * 17 - 32 - 15
    assert {cell.text for cell in cells if cell.shade is None} == {"–"}
    assert all(change.text for change in heat.changes[:-1])
    text = render(outcome)
    assert "A dash is a score that was not measured." in text
    assert "A dash is" not in render(make_replayed())
