"""The made-up world: who is asked about stands in the knowledge, held-out answers cannot be got from those learnt."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import evolving
import knowledge_ladder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """File -> its rows."""
    place = tmp_path_factory.mktemp("people")
    knowledge_ladder.main([str(place), "--known", "20", "--new", "10", "--others", "15"])
    return {path.stem: [json.loads(line) for line in path.open()] for path in place.rglob("*.jsonl")}


def test_two_questions_are_learnt_and_three_held_out(world):
    assert len(world["mine"]) == 20 and len(world["heldout"]) == 30 and len(world["questions"]) == 100
    asked = [row["question"] for row in (*world["mine"], *world["heldout"])]
    assert len(set(asked)) == 50 and not set(asked) & {row["input"] for row in world["questions"]}


def people(text):
    """The names in a text."""
    return set(re.findall(rf"(?:{'|'.join(knowledge_ladder.FIRST)}) \w+", text))


def test_the_documents_of_a_person_hold_all_answers(world):
    texts = [row["text"] for row in world["knowledge"]]
    assert len(texts) == 3 * 25 and all(len(people(text)) == 1 for text in texts)
    for row in (*world["mine"], *world["heldout"]):
        about = [text for text in texts if people(text) == people(row["question"])]
        assert len(about) == 3 and all(f"{row['answer']}." in text for text in about)


def test_the_base_has_read_of_nobody_who_is_new(world):
    new, known = (set.union(*(people(row["text"]) for row in world[name])) for name in ("knowledge", "text"))
    assert len(new) == 25 and len(known) == 20 and not new & known


def test_rows_of_a_run_are_rounds_and_what_the_stream_is_ahead_by():
    def side(before, after):
        found = {"before": before, "after": after, "repaired": 0.5, "afr": None, "gain_per_1k_tokens": 0.1}
        return {"likelihood": found, "written": found, "parse_fail_before": 1.0, "parse_fail_after": 0.5}

    def line(name, after):
        change = {"mine": side(0.2, 1.0), "heldout": side(0.25, after)}
        made = [{}, {"evolved": {"round": 1, "change": change}}]
        return {"name": name, "generations": made, "matrix": {"R": [[0.5], [0.25]]}}

    rows = evolving.of_run([line("stream", 0.75), line("naive", 0.5)])
    assert list(rows) == ["before", "stream, round 1", "naive, round 1"]
    assert rows["naive, round 1"]["stream ahead by"] == 0.25 and rows["before"]["tasks"] == 0.5
    table = evolving.table({name: {c: [v] for c, v in cells.items() if v is not None} for name, cells in rows.items()})
    assert "AFR" not in table and "| naive, round 1 | 1.000 (1) | 0.500 (1) | 0.250 (1) |" in table
