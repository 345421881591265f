"""How often a shared attention selects the block that was trained on the task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clray.evaluation.matrix import ScoreMatrix
from clray.lineage.generation import Generation
from clray.selection import Selection, blocks_of, selection_of

SAPT = {"kind": "sapt", "targets": ["q_proj", "v_proj"], "rank": 4}
OLORA = {**SAPT, "kind": "olora"}
STACK = {**SAPT, "kind": "lora_stack"}
LORA = {**SAPT, "kind": "lora"}
FULL = None


def chain(*adapters: dict[str, Any] | None) -> list[Generation]:
    """The base model and a generation s1, s2, ... with each of the adapters."""
    return [
        Generation(
            key=f"k{n}",
            parent=f"k{n - 1}" if n else None,
            index=n,
            stage_name=f"s{n}" if n else "base",
            base="k0",
            adapter=adapter,
        )
        for n, adapter in enumerate((None, *adapters))
    ]


def matrix(learned_at: dict[str, int | None], num_rows: int) -> ScoreMatrix:
    """A matrix without scores: what matters here is which stage teaches which task."""
    return ScoreMatrix(
        tasks=tuple(learned_at),
        metrics=dict.fromkeys(learned_at, "rouge_l"),
        learned_at=learned_at,
        generations=tuple(f"k{n}" for n in range(num_rows)),
        stages=tuple(f"s{n}" for n in range(num_rows)),
        R=((None,) * len(learned_at),) * num_rows,
    )


def cell(attention: list[float], heaviest: list[float]) -> dict[str, Any]:
    """A score with what was selected."""
    return {"metrics": {"rouge_l": 0.5}, "attention": attention, "heaviest": heaviest}


@pytest.mark.parametrize(
    ("adapters", "rows"),
    [
        ((), []),
        ((SAPT,), [1]),
        ((SAPT, SAPT, SAPT), [1, 2, 3]),
        ((FULL, SAPT, SAPT), [2, 3]),
        ((SAPT, SAPT, FULL, SAPT, SAPT), [4, 5]),
        ((SAPT, SAPT, FULL), []),
        ((SAPT, LORA, SAPT), [3]),
        ((OLORA, STACK, OLORA), [1, 2, 3]),
        ((OLORA, SAPT, SAPT), [2, 3]),
        ((SAPT, {**SAPT, "targets": ["q_proj"]}), [2]),
        ((SAPT, {**SAPT, "rank": 16}), [1, 2]),
    ],
    ids=lambda value: "" if isinstance(value, list) else "-".join(a["kind"] if a else "full" for a in value) or "base",
)
def test_a_stack_begins_where_it_cannot_go_on(adapters: tuple[dict[str, Any] | None, ...], rows: list[int]) -> None:
    """A full stage or a plain LoRA ends a stack; so do other targets, and attention where there was none."""
    assert blocks_of(chain(*adapters)) == rows


def test_one_stack_over_all_stages() -> None:
    """Task b is right for 60 % of its examples and task a for 90 %: 75 % on average. The probe does not count."""
    cells = {
        "b": cell([0.3, 0.7], [0.4, 0.6]),
        "a": cell([0.8, 0.2], [0.9, 0.1]),
        "probe": cell([0.5, 0.5], [0.2, 0.8]),
    }
    found = selection_of(chain(SAPT, SAPT), cells, matrix({"a": 1, "b": 2, "probe": None}, 3))
    assert found == Selection(
        tasks=("b", "a", "probe"),
        blocks=("s1", "s2"),
        attention=((0.3, 0.7), (0.8, 0.2), (0.5, 0.5)),
        heaviest=((0.4, 0.6), (0.9, 0.1), (0.2, 0.8)),
        own=(1, 0, None),
    )
    assert found.accuracy == pytest.approx(0.75)


def test_after_a_full_stage_the_columns_are_those_of_the_new_stack() -> None:
    """Stages 1 and 2 are merged below the full stage 3: what they taught has no block of its own any more."""
    cells = {name: cell([0.5, 0.5], [0.25, 0.75]) for name in "abcde"}
    learned: dict[str, int | None] = {name: n for n, name in enumerate("abcde", 1)}
    found = selection_of(chain(SAPT, SAPT, FULL, SAPT, SAPT), cells, matrix(learned, 6))
    assert found is not None
    assert (found.blocks, found.own) == (("s4", "s5"), (None, None, None, 0, 1))
    assert found.accuracy == pytest.approx((0.25 + 0.75) / 2)


def test_a_stage_that_teaches_two_tasks_owns_the_block_of_both() -> None:
    cells = {"a": cell([1.0], [1.0]), "b": cell([1.0], [1.0])}
    found = selection_of(chain(SAPT), cells, matrix({"a": 1, "b": 1}, 2))
    assert found is not None and found.own == (0, 0) and found.accuracy == 1.0


def test_probes_alone_have_no_accuracy() -> None:
    found = selection_of(chain(SAPT), {"probe": cell([1.0], [1.0])}, matrix({"probe": None}, 2))
    assert found is not None and found.own == (None,) and found.accuracy is None
    assert found.to_dict()["accuracy"] is None


def test_tasks_that_were_not_attended_to_are_left_out() -> None:
    cells = {"a": {"metrics": {"rouge_l": 0.5}}, "b": cell([0.0, 1.0], [0.0, 1.0])}
    found = selection_of(chain(SAPT, SAPT), cells, matrix({"a": 1, "b": 2}, 3))
    assert found is not None and found.tasks == ("b",) and found.own == (1,)


@pytest.mark.parametrize("cells", [{}, {"a": {"metrics": {"rouge_l": 0.5}}}])
def test_no_attention_no_selection(cells: dict[str, dict[str, Any]]) -> None:
    assert selection_of(chain(OLORA), cells, matrix({"a": 1}, 2)) is None


def test_plain_values_hold_the_accuracy() -> None:
    """What the report and `--json` get, as it comes back from JSON."""
    found = selection_of(chain(SAPT), {"a": cell([1.0], [1.0])}, matrix({"a": 1}, 2))
    assert found is not None
    assert json.loads(json.dumps(found.to_dict())) == {
        "tasks": ["a"],
        "blocks": ["s1"],
        "attention": [[1.0]],
        "heaviest": [[1.0]],
        "own": [0],
        "accuracy": 1.0,
    }
