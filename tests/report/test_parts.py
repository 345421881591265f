"""The parts of the page: numbers, scales, colours, shades, the tree."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_outcomes import make_outcome

from clray.report.figures import forgetting_panels, loss_panels
from clray.report.heatmap import heatmaps
from clray.report.lineage_tree import BOX_HEIGHT, BOX_WIDTH, lineage_tree
from clray.report.numbers import Unit, duration, setting, short_count, shorten
from clray.report.scale import path, smooth, spread, thin, ticks
from clray.report.summary import headline
from clray.report.view import View

FINITE = st.floats(-1e9, 1e9)


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_outcome(probe="trivia")


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (1234567, "1.23\u202fM"), (999_999, "1.00\u202fM"), (3.1e15, "3.10\u202fP"), (None, "–")],
)
def test_short_count(value: float | None, text: str) -> None:
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.42, "0.42\u202fs"), (59.99, "1\u202fmin 00\u202fs"), (11220, "3\u202fh 07\u202fmin"), (None, "–")],
)
def test_duration(value: float | None, text: str) -> None:
    assert duration(value) == text


def test_scores_read_in_their_unit() -> None:
    accuracy, bits = Unit("accuracy"), Unit("bits_per_byte")
    assert (accuracy.show(0.8412), bits.show(1.2345678)) == ("84.1", "1.235")
    assert (accuracy.signed(-0.05), accuracy.signed(0.05), accuracy.signed(-0.0001)) == (
        "−5.0",
        "+5.0",
        "0.0",
    )
    assert (accuracy.show(-0.02), accuracy.show(-0.0001), bits.show(None)) == ("−2.0", "0.0", "–")
    assert (accuracy.better(-0.05), bits.better(-0.05), bits.better(0.0001)) == ("bad", "good", "even")


def test_settings_and_long_names() -> None:
    assert setting({"kind": "lora", "rank": 8, "dropout": 0.0, "share": None}) == "lora, rank 8, dropout 0"
    assert setting(3e-4) == "0.0003" and setting(3e-5) == "3e-5"
    assert shorten("abcdefghij", 7) == "abcd…ij" and shorten("abc", 7) == "abc"


@given(FINITE, FINITE)
def test_ticks_enclose_their_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low
    values = ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert 2 <= len(values) <= 8
    assert values[0] <= low + slack and values[-1] >= high - slack
    assert values == sorted(set(values))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_stand_apart_and_inside(heights: list[float]) -> None:
    placed = sorted(spread(heights, 12, 0, 100))
    assert placed[0] >= -1e-9 and placed[-1] <= 100 + 1e-9
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(placed))


def test_smoothing_keeps_a_straight_line_and_the_ends() -> None:
    """The window is even at the start and in the middle, so a straight line stays; the end trails."""
    line = [(float(n), 2.0 * n) for n in range(100)]
    soft = smooth(line)
    assert [y for _, y in soft[:97]] == pytest.approx([y for _, y in line[:97]])
    assert [x for x, _ in thin(line, 10)][0::9] == [0.0, 99.0]
    assert path([(0, 1), None, (2, 3), (4, 5)]) == "M0 1M2 3L4 5"


def test_best_is_fullest_whichever_way_the_score_runs(outcome: dict[str, Any]) -> None:
    view = View.of(outcome)
    for heat in heatmaps(view):
        for column, task in enumerate(heat.tasks):
            shades = [cells[column].shade for _, _, cells in heat.rows]
            scores = view.lines[heat.line.number].column(task)
            best = (min if heat.line.unit(task).lower else max)(s for s in scores if s is not None)
            assert scores.index(best) == shades.index(max(s for s in shades if s is not None))


def test_what_became_of_a_task_since_it_was_taught(outcome: dict[str, Any]) -> None:
    """Accuracy 0.9 when taught at generation 2 and 0.6 at last is -30.0 points, and bad."""
    matrix = outcome["lines"][0]["matrix"]
    column = matrix["tasks"].index("dbpedia")
    matrix["R"][2][column], matrix["R"][-1][column] = 0.9, 0.6
    heat = heatmaps(View.of(outcome))[0]
    change = heat.changes[heat.tasks.index("dbpedia")]
    assert (change.text, change.judgement) == ("−30.0", "bad")


def test_a_task_keeps_its_colour_everywhere(outcome: dict[str, Any]) -> None:
    view = View.of(outcome)
    scores = {panel.title: panel.colour for panel in forgetting_panels(view)}
    losses = {panel.title: panel.colour for panel in loss_panels(view)}
    assert losses.items() <= scores.items()
    assert len(set(scores.values())) == len(view.tasks)


def test_a_shared_stage_is_drawn_once(outcome: dict[str, Any]) -> None:
    panels = {panel.title: panel for panel in loss_panels(View.of(outcome))}
    assert [c.line.name for c in panels["wiki-2024"].curves] == ["stream"]
    assert panels["wiki-2024"].notes == ["no-replay: no training of its own here"]
    assert [c.line.name for c in panels["dbpedia"].curves] == ["no-replay", "stream"]


@pytest.mark.parametrize("num_tasks", [3, 15])
def test_the_tree_shares_the_prefix_and_overlaps_nothing(num_tasks: int) -> None:
    """A stream and two controls share generations 0 and 1: 3 (n + 1) - 4 boxes, all but one with a parent."""
    outcome = make_outcome({f"t{n}": "accuracy" for n in range(num_tasks)}, ("a", "b"))
    tree = lineage_tree(View.of(outcome))
    assert len(tree.nodes) == 3 * (num_tasks + 1) - 4
    assert len(tree.edges) == len(tree.nodes) - 1
    spots = [(node.x, node.y) for node in tree.nodes]
    assert all(
        abs(ax - bx) >= BOX_WIDTH or abs(ay - by) >= BOX_HEIGHT
        for n, (ax, ay) in enumerate(spots)
        for bx, by in spots[n + 1 :]
    )
    assert all(x + BOX_WIDTH <= tree.width and y + BOX_HEIGHT <= tree.height for x, y in spots)


def test_the_headline_judges_by_the_unit(outcome: dict[str, Any]) -> None:
    """A lower average of bits per byte leads, a lower average accuracy trails; more forgetting is worse."""
    stream, control = (line["metrics"] for line in outcome["lines"])
    for metric in ("accuracy", "bits_per_byte"):
        stream[metric] |= {"average_performance": 0.5, "forgetting_max": 0.3}
        control[metric] |= {"average_performance": 0.7, "forgetting_max": 0.2}
    judged = {b.unit.metric: [c.rivals[0].judgement for c in b.cards[:2]] for b in headline(View.of(outcome))}
    assert judged == {"accuracy": ["bad", "bad"], "bits_per_byte": ["good", "bad"]}


def test_only_a_run_that_trained_marks_what_it_did_not(outcome: dict[str, Any]) -> None:
    for generation in outcome["lines"][0]["generations"][:3]:
        generation["built"] = False
    assert sum(node.is_reused for node in lineage_tree(View.of(outcome)).nodes) == 2
    for line in outcome["lines"]:
        for generation in line["generations"]:
            generation["built"] = False
    assert not any(node.is_reused for node in lineage_tree(View.of(outcome)).nodes)
