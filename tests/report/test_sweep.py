"""The page of a sweep: self-contained, complete, and right about fronts and importance."""

from html.parser import HTMLParser

import pytest

from clray.report import sweep as page


def result(num=4):
    trials = [
        {
            "number": n,
            "settings": {"method.adapter.rank": 2 ** (n % 2), "optimiser.learning_rate": 10.0**-n},
            "described": f"rank {2 ** (n % 2)}",
            "status": "complete",
            "why": "",
            "share": 1.0,
            "stage": 4,
            "of": 4,
            "values": [0.5 - 0.1 * n, 100.0 + n],
            "kept": n != 1,
            "excesses": [-0.1 if n != 1 else 0.2],
            "metrics": {"exact_match": {"average_performance": 0.5 - 0.1 * n, "forgetting_max": 0.3 - 0.1 * n}},
            "costs": {"tokens": 1000 + n, "device_seconds": 3.0 + n},
            "keys": [],
        }
        for n in range(num)
    ]
    failed = {**trials[0], "number": 9, "status": "failed", "why": "<b>no such file</b>", "values": None, "kept": None}
    return {
        "sweep": {
            "name": "small & fast",
            "description": "",
            "spec_yaml": "space: <x>",
            "objectives": [{"text": "average_performance", "maximise": True}, {"text": "tokens", "maximise": False}],
            "constraints": ["forgetting_max <= 0.3"],
        },
        "created": "2026-01-01T00:00:00",
        "seconds": 75.0,
        "finished": True,
        "trainings": {"alone": 16, "needed": 9, "saved": 7, "now": 9},
        "fields": ["method.adapter.rank", "optimiser.learning_rate"],
        "trials": [*trials, {**failed, "excesses": None, "stage": 0, "of": 0, "metrics": {}, "costs": {}}],
        "best": 0,
        "best_yaml": "name: words",
    }


class Tags(HTMLParser):
    """Collects tags and what they load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href") and tag != "a"]


def test_the_page_loads_nothing_and_escapes_what_it_shows():
    text = page.render(result())
    found = Tags(text)
    assert "script" not in found.tags and not found.loads
    assert "<b>no such file</b>" not in text and "&lt;b&gt;no such file" in text
    assert "9 stage trainings in place of 16" in text and text.count('class="trace') == 4
    assert 'class="trace best"' in text and "broken by 0.2" in text


def test_a_sweep_without_a_complete_trial_has_a_page_too():
    empty = {**result(), "trials": result()["trials"][4:], "best": None, "best_yaml": ""}
    text = page.render(empty)
    assert "No complete trial keeps the constraints." in text and "parallel coordinates" not in text


def test_the_front_holds_what_nothing_beats_in_both():
    """The less a trial forgets the worse it performs, so all are on the front; by cost the first beats them all."""
    forgetting, cost, objectives = page.trade_offs(result(), page.complete(result()))
    assert [spot.is_front for spot in forgetting.spots] == [True] * 4
    assert [spot.is_front for spot in cost.spots] == [True, False, False, False]
    assert objectives.y_name == "average_performance" and objectives.x_name == "tokens"


def test_objectives_that_are_drawn_already_are_not_drawn_again():
    found = result()
    found["sweep"]["objectives"] = [
        {"text": "average_performance", "maximise": True},
        {"text": "forgetting_max", "maximise": False},
    ]
    for trial in found["trials"]:
        if trial["metrics"]:
            own = trial["metrics"]["exact_match"]
            trial["values"] = [own["average_performance"], own["forgetting_max"]]
    assert [one.x_name for one in page.trade_offs(found, page.complete(found))] == [
        "forgetting (max)",
        "device-seconds",
    ]


def test_importance_is_the_share_of_variance_between_groups():
    """Groups (1, 3) and (5, 7): means 2 and 6 about 4, between 2*4 + 2*4 = 16 of 9 + 1 + 1 + 9 = 20 in all."""
    assert page.explained([[1.0, 3.0], [5.0, 7.0]]) == pytest.approx(0.8)
    assert page.explained([[1.0, 1.0], [1.0]]) == 0.0
    first, second = page.importances(result(), page.complete(result()))
    assert (first.field, first.share) == ("optimiser.learning_rate", pytest.approx(1.0))
    assert second.share == pytest.approx(0.2), "0.5, 0.3 and 0.4, 0.2: means 0.05 about 0.35 of variance 0.05 in all"


def test_choices_that_are_no_numbers_stand_evenly_on_their_axis():
    whole = result()
    for number, trial in enumerate(whole["trials"]):
        trial["settings"]["method.adapter.rank"] = {"kind": "lora", "rank": 8} if number % 2 else {"kind": "full"}
    axis = page.parallel(whole, page.complete(whole)).axes[0]
    assert [text for _, text in axis.marks] == ["full", "lora rank 8"]


def test_many_numbers_are_cut_into_groups_of_like_size():
    groups = page.grouped([float(n) for n in range(16)], [float(n) for n in range(16)])
    assert [name for name, _ in groups] == ["0 to 3", "4 to 7", "8 to 11", "12 to 15"]


def test_a_row_has_a_cell_for_each_head():
    whole = result()
    assert all(len(page.row(whole, trial)) == len(page.heads(whole)) for trial in whole["trials"])
    assert page.row(whole, whole["trials"][0])[-1] == "best" and page.row(whole, whole["trials"][4])[-1] == "failed"
