"""Probes and gates in the report: which kind of stage hurt which kind of ability, what was rejected and why."""

import re

import pytest
from report_outcomes import make_outcome

from clray.report.gates import gates
from clray.report.lineage_tree import lineage_tree
from clray.report.page import render
from clray.report.probes import probes
from clray.report.view import View

TASKS = {"law": "bits_per_byte", "desk": "accuracy", "news": "accuracy"}


def verdict(decision, attempt=0):
    return {"decision": decision, "why": f"why {decision} {attempt}", "falls": {}, "attempt": attempt, "tokens": 7}


@pytest.fixture
def outcome():
    """The stream `law, desk, news` with a probe; `news` was rejected once and accepted at its second try."""
    made = make_outcome(TASKS, probe="trivia")
    line = made["lines"][0]
    line["matrix"]["groups"] = {"law": "knowledge"}
    line["matrix"]["R"] = [[3.0, 0.1, 0.1, 0.5], [1.0, 0.1, 0.1, 0.4], [1.5, 0.8, 0.1, 0.45], [1.4, 0.7, 0.9, 0.35]]
    line["generations"][3]["verdict"] = verdict("accept", 1)
    tried = {**line["generations"][3], "key": "f" * 32, "verdict": verdict("raise_replay")}
    tried["stage"] = {"kind": "instruct", "replay": {"kind": "random", "share": 0.05}}
    line["rejected"] = [{**tried, "scores": {"law": 2.5, "desk": 0.2, "news": 0.9, "trivia": 0.1}}]
    return made


def texts_of(found):
    return [[cell.text for cell in cells] for *_, cells in found.rows]


def test_steps_are_shown_by_stage_and_by_kind(outcome):
    """knowledge (law, turned): law teaches it, then 1.0-1.5 = -0.5, then 1.5-1.4 = 0.1, rejected 1.5-2.5 = -1. general
    (trivia): -10, +5, -10 points, rejected 10-45 = -35; since base 35-50 = -15. desk and news are both of the kind that
    `report_outcomes` calls instruct: (-0.5+0.1)/2 = -0.2 and (5-10)/2 = -2.5."""
    found = probes(View.of(outcome))
    stages, kinds = found.stages[0], found.kinds[0]
    assert [head.name for head in stages.heads] == ["knowledge", "general"]
    assert [name for _, name, _ in stages.rows] == ["law", "desk", "news (rejected)", "news"]
    assert texts_of(stages) == [["–", "−10.0"], ["−0.500", "+5.0"], ["−1.000", "−35.0"], ["+0.100", "−10.0"]]
    assert [(change.text, change.judgement) for change in stages.deltas] == [("+1.600", "good"), ("−15.0", "bad")]
    assert [(number, name) for number, name, _ in kinds.rows] == [(1, "pretrain"), (2, "instruct")]
    assert texts_of(kinds) == [["–", "−10.0"], ["−0.200", "−2.5"]]
    assert stages.rows[2][2][0].shade == 1.0 and stages.rows[2][2][0].is_ahead


def test_without_any_group_there_is_no_section():
    assert probes(View.of(make_outcome(TASKS))) is None
    assert 'id="probes"' not in render(make_outcome(TASKS)) and 'id="gate"' not in render(make_outcome(TASKS))


def test_the_tries_stand_in_order_with_their_replay_and_reason(outcome):
    [found] = gates(View.of(outcome))
    assert [(row.attempt, row.decision) for row in found.rows] == [("1", "rejected"), ("2", "accepted")]
    assert found.rows[0].replay == "5.0%" and found.rows[0].why == "why raise_replay 0"
    assert found.cost.startswith("1 rejected generation: ")


def test_a_rejected_generation_is_a_marked_branch_of_the_tree(outcome):
    tree = lineage_tree(View.of(outcome))
    [marked] = [node for node in tree.nodes if node.is_rejected]
    assert marked.kind == "instruct, rejected" and "rejected by a gate" in marked.title
    assert len(tree.edges) == len(tree.nodes) - 1
    assert len({(node.x, node.y) for node in tree.nodes}) == len(tree.nodes)


def test_the_page_says_all_of_it(outcome):
    page = render(outcome)
    assert re.search(r'<a href="#probes">Probes</a>\s*<a href="#gate">Gate</a>', page)
    for text in ("news (rejected)", "why raise_replay 0", "Hatched rows are generations", "A red edge marks"):
        assert text in page, text
