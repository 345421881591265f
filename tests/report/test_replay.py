"""The figures of replay: quotas, distances, instructions."""

from __future__ import annotations

import html
import math
from typing import Any

import pytest
from replay_outcomes import by_instruction, instruction, make_draw, make_replayed
from report_outcomes import make_outcome

from clray.report.instructions import rankings
from clray.report.page import render
from clray.report.replay import distances, quotas, show_distance
from clray.report.view import View


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_replayed()


def section(outcome: dict[str, Any]) -> str:
    """The page's section on replay."""
    return render(outcome).split('<section id="replay">')[1].split("</section>")[0]


def test_a_bar_is_stacked_in_the_order_of_the_stages(outcome: dict[str, Any]) -> None:
    """Stage 4 is shown 10 + 20 + 30 rows again; the widest bar, 90 rows of the random control, is the scale."""
    bar = quotas(View.of(outcome))[0].bars[-1]
    assert (bar.index, bar.stage, bar.total, bar.spread) == (4, "s4", "60", "3.00×")
    assert [(part.origin.name, part.x, part.width) for part in bar.parts] == [
        ("s1", 0.0, 11.11),
        ("s2", 11.11, 22.22),
        ("s3", 33.33, 33.33),
    ]
    assert bar.parts[1].title == "s4: 20 rows of s2, of 1\u202f000, at distance 0.1"


def test_each_line_that_replays_has_bars_and_says_its_spread(outcome: dict[str, Any]) -> None:
    stream, control = quotas(View.of(outcome))
    assert [(q.line.name, q.kinds, q.spread) for q in (stream, control)] == [
        ("stream", "inscl", "2.00× to 3.00×"),
        ("random", "random", "1.00×"),
    ]
    text = section(outcome)
    assert "spread max/min 2.00× to 3.00×" in text and "spread max/min 1.00×" in text
    assert "<title>s4: 30 rows of s1, of 1\u202f000</title>" in text
    assert text.count('<ul class="origins">') == 1


def test_the_colours_run_from_the_first_stage_to_the_last_that_is_replayed() -> None:
    places = [origin.place for origin in quotas(View.of(make_replayed(16)))[0].legend]
    assert len(places) == 15 and places == sorted(set(places)) and (places[0], places[-1]) == (0.0, 100.0)


def test_a_stage_that_gives_nothing_makes_the_spread_infinite(outcome: dict[str, Any]) -> None:
    outcome["lines"][0]["generations"][3]["receipt"]["draws"][0]["rows"] = 0
    stream = quotas(View.of(outcome))[0]
    assert [bar.spread for bar in stream.bars] == ["", "∞", "3.00×"] and stream.spread == "3.00× to ∞"
    assert [part.origin.name for part in stream.bars[1].parts] == ["s2"]


def test_the_distance_matrix_is_a_lower_triangle(outcome: dict[str, Any]) -> None:
    [found] = distances(View.of(outcome))
    assert found.line.is_stream and [origin.name for origin in found.columns] == ["s1", "s2", "s3"]
    assert [[cell and cell.text for cell in cells] for _, _, cells in found.rows] == [
        ["0.050", None, None],
        ["0.050", "0.100", None],
        ["0.050", "0.100", "0.150"],
    ]
    assert [cell.shade for cell in found.rows[-1][2] if cell] == [0.0, 0.5, 1.0]
    assert found.solvers == "exact (213 x 187 instructions)"
    assert "Solver: exact (213 x 187 instructions)" in section(outcome)


def test_sixteen_stages_are_a_wide_table(outcome: dict[str, Any]) -> None:
    [found] = distances(View.of(make_replayed(16)))
    assert found.is_wide and len(found.rows) == len(found.columns) == 15
    assert sum(cell is not None for _, _, cells in found.rows for cell in cells) == 15 * 16 // 2


def test_several_solvers_are_counted(outcome: dict[str, Any]) -> None:
    for draw in outcome["lines"][0]["generations"][4]["receipt"]["draws"]:
        draw |= {"solver": "sinkhorn", "solver_because": ""}
    [found] = distances(View.of(outcome))
    assert found.solvers == "exact for 2 stages (213 x 187 instructions); sinkhorn for 1 stage"


@pytest.mark.parametrize(
    ("value", "high", "text"),
    [(0.5, 0.8512, "0.500"), (3.14159, 12.0, "3.1"), (0.0123, 0.0456, "0.0123"), (0, 0, "0.00")],
)
def test_the_largest_distance_has_three_digits(value: float, high: float, text: str) -> None:
    assert show_distance(value, (0.0, high)) == text


def test_a_draw_without_a_distance_is_a_dash(outcome: dict[str, Any]) -> None:
    draws = outcome["lines"][0]["generations"][4]["receipt"]["draws"]
    draws[1] = make_draw("s2", 5)
    draws[2]["distance"] = math.nan
    [found] = distances(View.of(outcome))
    assert [cell and cell.text for cell in found.rows[-1][2]] == ["0.050", "–", "–"]


def test_instructions_are_ranked_by_insinfo_and_tags_by_count(outcome: dict[str, Any]) -> None:
    [ranking] = rankings(View.of(outcome))
    assert (ranking.index, ranking.stage, ranking.num_instructions) == (4, "s4", 3)
    assert [(row.origin.name, row.text, row.insinfo, row.rows) for row in ranking.rows] == [
        ("s3", "Do 3.", "3.00", "3 / 40"),
        ("s2", "Do 2.", "2.00", "3 / 40"),
        ("s1", "Do 1.", "1.00", "3 / 40"),
    ]
    assert ranking.tags == [("a", 3), ("b1", 1), ("b2", 1), ("b3", 1)]
    assert '<span class="tag">a <small>3</small></span>' in section(outcome)


def test_at_most_twenty_instructions_with_eight_tags_each_are_shown(outcome: dict[str, Any]) -> None:
    many = [instruction("long\n text " * 40, float(n), [f"tag {k}" for k in range(12)]) for n in range(50)]
    outcome["lines"][0]["generations"][4]["receipt"]["draws"] = [by_instruction("s1", 150, 0.1, many)]
    [ranking] = rankings(View.of(outcome))
    first = ranking.rows[0]
    assert (len(ranking.rows), ranking.num_instructions, first.insinfo) == (20, 50, "49.00")
    assert (len(first.tags), len(first.more_tags)) == (8, 4)
    assert "\n" not in first.text and first.text.endswith("…")
    assert "+4</small>" in section(outcome)


def test_what_others_wrote_is_escaped(outcome: dict[str, Any]) -> None:
    evil = '<script>alert("1")</script>'
    receipt = outcome["lines"][0]["generations"][4]["receipt"]
    receipt["draws"] = [by_instruction(evil, 9, 0.3, [instruction(evil, 1.0, [evil] * 10)])]
    receipt["draws"][0] |= {"solver": evil, "solver_because": evil}
    receipt["replay"]["kind"] = evil
    text = render(outcome)
    assert "<script" not in text and 'alert("1")' not in text
    assert html.escape(evil, quote=False) in text.replace("&#34;", '"')


def test_instructions_chosen_at_random_are_not_ranked(outcome: dict[str, Any]) -> None:
    for generation in outcome["lines"][0]["generations"][2:]:
        for draw in generation["receipt"]["draws"]:
            draw["instructions"] = [instruction("Do it.")]
    assert rankings(View.of(outcome)) == [] and "Instructions shown again" not in section(outcome)


def test_receipts_of_earlier_versions_and_none_at_all(outcome: dict[str, Any]) -> None:
    assert "Nothing has been replayed." in section(make_outcome())
    stream, *others = outcome["lines"]
    for line in others:
        for generation in line["generations"]:
            generation["receipt"] = {}
    stream["generations"][2].pop("receipt")
    stream["generations"][3]["receipt"] = {
        "seed": 1,
        "draws": [{"stage": "s1", "rows": 7}, {"stage": "gone", "rows": 2}],
    }
    stream["generations"][4]["receipt"]["draws"] = []
    [found] = quotas(View.of(outcome))
    assert [(bar.stage, bar.total) for bar in found.bars] == [("s3", "9")]
    text = section(outcome)
    assert "Distances between stages" not in text and "Instructions shown again" not in text


def test_generations_shared_with_the_stream_are_no_replay_of_a_control(outcome: dict[str, Any]) -> None:
    outcome["lines"][1]["generations"] = outcome["lines"][0]["generations"]
    assert [q.line.name for q in quotas(View.of(outcome))] == ["stream"]
