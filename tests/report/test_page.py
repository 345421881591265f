"""The page as a whole: self-contained, escaped, complete, and whole at the edges."""

from __future__ import annotations

import copy
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_outcomes import make_outcome

from clray.report.numbers import Unit
from clray.report.page import render, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
LONG = {f"task-{n}-{'x' * 40}": "bits_per_byte" if n % 5 == 4 else "exact_match" for n in range(15)}


class Page(HTMLParser):
    """Collects tags, ids and references, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if values.get("id") else []
        self.references += [values[name] for name in ("src", "href", "xlink:href", "data") if values.get(name)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def numbers_of(line: dict[str, Any]) -> list[str]:
    """Every score of a line as the page shows it."""
    matrix = line["matrix"]
    units = [Unit(matrix["metrics"][task]) for task in matrix["tasks"]]
    return [unit.show(score) for row in matrix["R"] for unit, score in zip(units, row, strict=True)]


def cells_of(page: str) -> list[str]:
    """The text of all cells of the heat maps."""
    heats = re.findall(r'<table class="heat.*?</table>', page, re.S)
    return [cell for heat in heats for cell in re.findall(r"<td[^>]*>([^<]*)</td>", heat.split("<tfoot>")[0])]


@pytest.fixture
def outcome() -> dict[str, Any]:
    return make_outcome(probe="trivia")


def test_the_page_is_one_file_that_loads_nothing(outcome: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(outcome, tmp_path / "deep" / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r"https?://|url\(|@import", text)


def test_every_number_of_the_matrix_is_there(outcome: dict[str, Any]) -> None:
    expected = [number for line in outcome["lines"] for number in numbers_of(line)]
    matrices = render(outcome).partition('<section id="probes">')[0]
    assert sorted(cells_of(matrices)) == sorted(expected)


def test_the_headline_holds_each_line_s_measures(outcome: dict[str, Any]) -> None:
    summary = render(outcome).split('<section id="summary">')[1].split("</section>")[0]
    for line in outcome["lines"]:
        for metric, measures in line["metrics"].items():
            for value in measures.values():
                assert Unit(metric).show(value).lstrip("-") in summary


def test_an_outcome_is_not_changed(outcome: dict[str, Any]) -> None:
    before = copy.deepcopy(outcome)
    assert render(outcome) == render(outcome)
    assert outcome == before


def test_names_are_escaped() -> None:
    evil = '<script>alert("1")</script>'
    outcome = make_outcome({evil: "accuracy", "b": "accuracy"}, controls=(f"control-{evil}",))
    for field in ("name", "description", "spec_yaml"):
        outcome["stream"][field] = evil
    outcome["environment"] = {evil: evil}
    text = render(outcome)
    assert "script" not in Page(text).tags
    assert html.escape(evil, quote=False) in text.replace("&#34;", '"')


def test_one_line_alone() -> None:
    text = render(make_outcome(controls=()))
    Page(text)
    assert "0 controls" in text and "no-replay" not in text and "▲" not in text


@pytest.mark.parametrize("controls", [(), ("a", "b", "c", "d", "e", "f")])
def test_many_long_tasks_stay_small(controls: tuple[str, ...]) -> None:
    text = render(make_outcome(LONG, controls))
    Page(text)
    assert len(text.encode()) < 1_500_000
    assert len(re.findall(r'<figure class="panel"', text)) == 30


def test_a_missing_curve_and_missing_cells() -> None:
    outcome = make_outcome()
    for line in outcome["lines"]:
        for generation in line["generations"]:
            generation["curve"] = []
        line["matrix"]["R"][1] = [None] * 4
        line["matrix"]["R"][2][0] = float("nan")
    text = render(outcome)
    Page(text)
    assert "No loss curve has been recorded." in text
    assert cells_of(text).count("–") == 10
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower()


def test_nothing_but_the_base_model_and_probes() -> None:
    outcome = make_outcome({"a": "accuracy"}, controls=(), probe="trivia")
    [line] = outcome["lines"]
    line["matrix"] |= {
        "R": line["matrix"]["R"][:1],
        "stages": ["base"],
        "generations": line["matrix"]["generations"][:1],
        "learned_at": {"a": 1, "trivia": None},
    }
    line["generations"], line["metrics"] = line["generations"][:1], {}
    text = render(outcome)
    Page(text)
    assert "No scores have been summed up yet." in text and "No mixture has been recorded." in text


def test_no_tasks_at_all() -> None:
    outcome = make_outcome(controls=())
    [line] = outcome["lines"]
    line["matrix"] |= {"tasks": [], "metrics": {}, "learned_at": {}, "R": [[] for _ in line["matrix"]["R"]]}
    line["metrics"] = {}
    Page(render(outcome))


def test_a_record_with_nothing_but_its_key() -> None:
    outcome = make_outcome(controls=())
    for generation in outcome["lines"][0]["generations"]:
        for field in ("inheritance", "data", "training", "stage"):
            generation[field] = {}
        generation["version"], generation["curve"] = None, None
    Page(render(outcome))


def test_the_taught_cell_is_outlined_and_what_lies_before_is_hatched(outcome: dict[str, Any]) -> None:
    """Four taught tasks give 4 outlines and 1 + 2 + 3 + 4 hatched cells a line; the probe gives none."""
    text = render(outcome)
    assert len(re.findall(r'<td class="[^"]*taught ', text)) == 2 * 4
    assert len(re.findall(r'<td class="[^"]*ahead ', text)) == 2 * 10
