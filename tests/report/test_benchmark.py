"""The page of a benchmark: seeds taken together, settings told apart, foreign text escaped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transfer_outcomes import make_pretrained

from clray.report.benchmark import medians, render, spread, tables
from clray.report.numbers import Unit


@pytest.fixture
def benchmark() -> dict[str, Any]:
    """Two orders, two seeds; the second seed's scores are a tenth higher."""
    parts = []
    for order in ("random", "<similar>"):
        for seed in (0, 1):
            outcome = copy.deepcopy(make_pretrained())
            matrix = outcome["lines"][0]["matrix"]
            matrix["R"] = [[None if x is None else x * (1 + 0.1 * seed) for x in row] for row in matrix["R"]]
            outcome["lines"] = outcome["lines"][:1]
            outcome["lines"][0]["metrics"] = {"bits_per_byte": {"average_performance": 1.0 + 0.1 * seed}}
            label = f"{order.strip('<>')}_{seed}"
            parts.append(
                {
                    "label": label,
                    "group": f"order {order}",
                    "described": f"order {order}, seed {seed}",
                    "settings": {"order": order, "seed": seed},
                    "outcome": outcome,
                }
            )
    stream = {"name": "two orders", "description": "", "spec_yaml": "name: x"}
    return {"stream": stream, "created": "2026-01-01T00:00:00", "seconds": 5.0, "combinations": parts}


def test_seeds_are_taken_together(benchmark: dict[str, Any]) -> None:
    [table] = tables(benchmark["combinations"])
    assert [(group, seeds) for group, _, seeds, _ in table.rows] == [("order random", 2), ("order <similar>", 2)]
    assert table.rows[0][3] == ["1.050 ± 0.071"]
    [domains] = medians(benchmark["combinations"])
    assert [row.num_seeds for row, _ in domains.rows] == [2, 2]
    assert all(len(texts) == len(domains.heads) for _, texts in domains.rows)


def test_one_seed_has_no_spread() -> None:
    assert spread([0.5], Unit("rouge_l")) == "50.0"
    assert spread([0.5, 0.7], Unit("rouge_l"), signed=True) == "+60.0 ± 14.1"
    assert spread([], Unit("rouge_l")) == "–"


def test_the_page_links_to_each_report_and_escapes(benchmark: dict[str, Any]) -> None:
    text = render(benchmark)
    assert text.count('/report.html"') == 4 and 'href="similar_1/report.html"' in text
    assert "&lt;similar&gt;" in text and "<similar>" not in text
    assert text.count("Transfer by distance") == 1
