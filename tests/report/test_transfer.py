"""The section on transfer between domains: where it stands, its heat map, curves, tables and similarity."""

from __future__ import annotations

import copy
import html
import math
import re
from typing import Any

import pytest
from replay_outcomes import measured_sparsely
from report_outcomes import make_outcome
from test_page import Page
from transfer_outcomes import DOMAINS, make_pretrained

from clray.report.page import render
from clray.report.transfer import measured, medians, percent, tables
from clray.report.transfer_figures import change_limit, change_maps, distance_panels, learning_panels, likeness
from clray.report.view import View

ROWS = [[2.0, 1.0, 4.0], [1.0, 1.1, 4.4], [1.2, 0.5, 4.0], [1.1, 0.6, 3.0]]


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_pretrained()


@pytest.fixture
def small() -> dict[str, Any]:
    """Three domains in bits per byte, taught as history, geography, biography, on one line: scores of ROWS."""
    outcome = make_pretrained(("history", "geography", "biography"), controls=(), probe=None)
    order = ["history", "geography", "biography"]
    matrix = outcome["lines"][0]["matrix"]
    matrix["R"] = [[row[order.index(task)] for task in matrix["tasks"]] for row in copy.deepcopy(ROWS)]
    outcome["experts"] = {"history": 1.25, "geography": 0.4}
    return outcome


def section(outcome: dict[str, Any]) -> str:
    """The page's section on transfer."""
    return render(outcome).split('<section id="transfer">')[1].split("</section>")[0]


def kinds(outcome: dict[str, Any], *names: str) -> None:
    """Gives the stages of the stream these kinds, in order."""
    for generation, kind in zip(outcome["lines"][0]["generations"][1:], names, strict=True):
        generation["stage"] = {"kind": kind}


def test_the_page_has_the_section_for_three_pretrain_stages(small: dict[str, Any]) -> None:
    text = render(small)
    Page(text)
    assert 'id="transfer"' in text and '<a href="#transfer">Transfer</a>' in text


@pytest.mark.parametrize("change", ["an instruct stage", "another unit", "probes", "the base model alone"])
def test_and_not_for_fewer(small: dict[str, Any], change: str) -> None:
    matrix = small["lines"][0]["matrix"]
    if change == "an instruct stage":
        kinds(small, "pretrain", "instruct", "pretrain")
    elif change == "another unit":
        matrix["metrics"] = dict.fromkeys(matrix["tasks"], "accuracy")
    elif change == "probes":
        matrix["learned_at"]["biography"] = None
    else:
        small["lines"][0]["generations"] = small["lines"][0]["generations"][:1]
    text = render(small)
    Page(text)
    assert 'id="transfer"' not in text and 'href="#transfer"' not in text


def test_streams_of_tasks_have_no_such_section() -> None:
    assert "Transfer between domains" not in render(make_outcome(probe="trivia"))


def test_a_control_that_pretrains_less_is_left_out(outcome: dict[str, Any]) -> None:
    for generation in outcome["lines"][1]["generations"][1:11]:
        generation["stage"] = {"kind": "instruct"}
    assert [one.line.name for one in measured(View.of(outcome))] == ["stream"]


def test_the_heat_map_by_hand(small: dict[str, Any]) -> None:
    """history 2 -> 1: +50; geography 1 -> 1.1: -10, its own stage +50. The sizes 50 50 45 40 40 25 10 10 0 from
    below: nine, of which number int(0.95 * 8) = 7 is 50, the full colour."""
    found = measured(View.of(small))
    [heat] = change_maps(View.of(small), found)
    assert [domain.task for domain in heat.domains] == ["history", "geography", "biography"] and not heat.is_wide
    assert [(index, stage, [cell.text for cell in cells]) for index, stage, cells in heat.rows] == [
        (1, "history", ["+50.0", "−10.0", "−10.0"]),
        (2, "geography", ["+40.0", "+50.0", "0.0"]),
        (3, "biography", ["+45.0", "+40.0", "+25.0"]),
    ]
    assert change_limit(found) == pytest.approx(0.5)
    assert [cell.shade for cell in heat.rows[0][2]] == [1.0, 0.2, 0.2]
    assert [cell.hue for cell in heat.rows[0][2]] == ["", "worse", "worse"]
    assert [[cell.is_taught for cell in cells] for *_, cells in heat.rows] == [
        [True, False, False], [False, True, False], [False, False, True]
    ]  # fmt: skip
    assert heat.rows[0][2][1].title == (
        "geography at generation 1 (history), 1 before its own stage: −10.0%, 1.100 against 1.000 zero-shot"
    )
    text = section(small)
    assert "−50% or worse" in text and text.count('<td class="worse ') == 2 and "outlined" in text.lower()


def test_an_outlier_does_not_wash_the_others_out(outcome: dict[str, Any]) -> None:
    limit = change_limit(measured(View.of(outcome)))
    outcome["lines"][0]["matrix"]["R"][5][0] = 500.0
    found = measured(View.of(outcome))
    assert change_limit(found) == pytest.approx(limit, rel=0.1)
    [cell] = [
        cell for *_, cells in change_maps(View.of(outcome), found)[0].rows for cell in cells if len(cell.text) > 6
    ]
    assert cell.shade == 1.0 and cell.hue == "worse"


def test_the_curve_by_distance(small: dict[str, Any]) -> None:
    """Distances -2..2 hold -10; (-10, 0); (50, 50, 25); (40, 40); 45."""
    [panel] = distance_panels(measured(View.of(small)))
    [curve] = panel.curves
    assert [dot.is_taught for dot in curve.dots] == [False, False, True, False, False]
    assert curve.dots[2].x == panel.taught_x and curve.label == "+45.0"
    assert curve.dots[0].title == "2 before: median −10.0%, quartiles −10.0% to −10.0%, 1 domain"
    assert curve.dots[1].title == "1 before: median −5.0%, quartiles −7.5% to −2.5%, 2 domains"
    assert curve.dots[2].title == "own stage: median +50.0%, quartiles +37.5% to +50.0%, 3 domains"
    assert curve.band.count("L") == 9 and curve.band.endswith("Z")
    assert [text for _, text in panel.x_ticks] == ["−2", "−1", "0", "1", "2"]
    assert "0" in [text for _, text in panel.y_ticks] and panel.floor_y in [y for y, _ in panel.y_ticks]
    assert panel.notes == ["median forward −10.0%", "median backward +40.0%"]


def test_all_lines_are_drawn_at_one_scale(outcome: dict[str, Any]) -> None:
    found = measured(View.of(outcome))
    for panels in (distance_panels(found), learning_panels(found)):
        first, second = panels
        assert (first.title, second.title) == ("stream", "reversed")
        assert first.y_ticks == second.y_ticks and first.x_ticks == second.x_ticks


def test_loss_of_learning_is_drawn_where_there_are_experts(small: dict[str, Any]) -> None:
    """Gains of 20% and -25% at stages 1 and 2 are too few for a trend."""
    [panel] = learning_panels(measured(View.of(small)))
    assert [dot.title for dot in panel.curves[0].dots] == ["stage 1, history: +20.0%", "stage 2, geography: −25.0%"]
    assert panel.curves[0].path == "" and panel.notes == ["ρ = –, 2 domains"]
    small["experts"]["biography"] = 4.0
    [panel] = learning_panels(measured(View.of(small)))
    assert panel.curves[0].path.startswith("M") and panel.notes == ["ρ = +0.50, 3 domains, +2.5 points a stage"]
    small["experts"] = {}
    assert learning_panels(measured(View.of(small))) == []
    text = section(small)
    assert "Loss of learning" not in text and "Transfer by distance" in text


def test_the_tables_by_hand(small: dict[str, Any]) -> None:
    [table] = tables(measured(View.of(small)))
    assert [[entry.text for entry in entries] for _, entries in table.rows] == [
        ["2.000", "1.250", "1.000", "1.100", "+0.100", "+20.0", "+45.0"],
        ["1.000", "0.400", "0.500", "0.600", "+0.100", "−25.0", "+40.0"],
        ["4.000", "–", "3.000", "3.000", "0.000", "–", "+25.0"],
    ]
    assert [entry.judgement for entry in table.rows[1][1][4:]] == ["bad", "bad", "good"]
    assert table.feet[0] == ("median", ["2.000", "0.825", "1.000", "1.100", "+0.100", "−2.5", "+40.0"])
    assert table.feet[-1] == ("domains", ["3", "2", "3", "3", "3", "2", "3"])
    [(one, entries)] = medians(measured(View.of(small)))
    assert one.line.is_stream
    assert [entry.text for entry in entries[5:]] == ["1 of 2", "+40.0%", "−10.0%", "–"]
    assert entries[0].title == "quartiles 1.500 to 3.000, over 3 domains"


@pytest.mark.parametrize(("change", "text"), [(0.1234, "+12.3"), (-12.5, "−1\u202f250"), (-0.0001, "0.0"), (None, "–")])
def test_percent(change: float | None, text: str) -> None:
    assert percent(change) == text


def test_the_similarity_stands_with_its_correlation(outcome: dict[str, Any]) -> None:
    view = View.of(outcome)
    found = likeness(view, measured(view))
    assert found is not None and found.names == list(DOMAINS) and found.is_wide
    assert all((cell is None) == (i == j) for i, (*_, cells) in enumerate(found.rows) for j, cell in enumerate(cells))
    shades = [cell.shade for *_, cells in found.rows for cell in cells if cell]
    assert (min(shades), max(shades)) == (0.0, 1.0)
    assert [one.line.name for one, _ in found.correlations] == ["stream", "reversed"]
    assert all(re.fullmatch(r"ρ = \+0\.\d\d, 132 pairs", text) for _, text in found.correlations)
    text = section(outcome)
    assert "Similarity</h3>" in text and text.count('<td class="near ') == 132


@pytest.mark.parametrize("is_named", [True, False])
def test_an_outcome_without_similarity(outcome: dict[str, Any], is_named: bool) -> None:
    outcome.pop("similarity")
    outcome |= {"similarity": None} if is_named else {}
    assert "Similarity</h3>" not in section(outcome)


def test_similarity_may_name_domains_and_know_only_some(small: dict[str, Any]) -> None:
    small["similarity"] = {"domains": ["biography", "web"], "cosine": [[1.0, math.nan], [0.2, 1.0]]}
    view = View.of(small)
    found = likeness(view, measured(view))
    assert found is not None and [text for _, text in found.correlations] == ["ρ = –, 0 pairs"]
    assert [[cell and cell.text for cell in cells] for *_, cells in found.rows] == [[None, "–"], ["0.20", None]]
    Page(render(small))


def test_cells_that_were_not_measured(outcome: dict[str, Any]) -> None:
    """Base, diagonal and last row alone: 12 + 11 of the 144 changes are measured."""
    found = measured(View.of(measured_sparsely(outcome)))
    cells = [cell for *_, row in change_maps(View.of(outcome), found)[0].rows for cell in row]
    assert sum(cell.shade is not None for cell in cells) == 23 and {c.text for c in cells if c.shade is None} == {"–"}
    Page(render(outcome))


def test_nothing_measured_at_all(outcome: dict[str, Any]) -> None:
    for line in outcome["lines"]:
        line["matrix"]["R"] = [[None] * len(row) for row in line["matrix"]["R"]]
    text = render(outcome)
    Page(text)
    assert 'id="transfer"' in text and "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower()


def test_two_units_stand_apart(outcome: dict[str, Any]) -> None:
    for line in outcome["lines"]:
        line["matrix"]["metrics"] |= dict.fromkeys(DOMAINS[:4], "perplexity")
    found = measured(View.of(outcome))
    assert [(one.line.name, one.unit.metric, len(one.transfer.domains)) for one in found] == [
        ("stream", "bits_per_byte", 8), ("stream", "perplexity", 4),
        ("reversed", "bits_per_byte", 8), ("reversed", "perplexity", 4),
    ]  # fmt: skip
    Page(render(outcome))


def test_names_are_escaped() -> None:
    evil = '<script>alert("1")</script>'
    outcome = make_pretrained((evil, "b", "c", "d"), controls=(f"control-{evil}",))
    text = render(outcome)
    assert "script" not in Page(text).tags and 'alert("1")' not in text
    assert html.escape(evil, quote=False) in section(outcome).replace("&#34;", '"')


def test_an_outcome_is_not_changed(outcome: dict[str, Any]) -> None:
    before = copy.deepcopy(outcome)
    assert render(outcome) == render(outcome) and outcome == before
