"""Outcomes with receipts of replay, as `clray.replay` writes them, and matrices measured sparsely."""

from __future__ import annotations

from typing import Any

from report_outcomes import Outcome, make_outcome


def make_draw(stage: str, rows: int, **more: Any) -> dict[str, Any]:
    """The receipt of one draw, without the row numbers."""
    return {"stage": stage, "rows": rows, "asked": rows, "of_rows": 1000, "tokens": rows * 80, **more}


def by_instruction(stage: str, rows: int, distance: float, instructions: list[dict[str, Any]]) -> dict[str, Any]:
    """The receipt of one InsCL draw."""
    return make_draw(
        stage,
        rows,
        distance=distance,
        solver="exact",
        solver_because="213 x 187 instructions",
        distinct_instructions=len(instructions),
        instructions=instructions,
    )


def instruction(text: str, insinfo: float | None = None, tags: list[str] | None = None) -> dict[str, Any]:
    """One instruction of a receipt."""
    known = {"insinfo": insinfo, "tags": tags}
    return {"text": text, "rows": 3, "of_rows": 40, **{k: v for k, v in known.items() if v is not None}}


def make_replayed(num_stages: int = 4, controls: tuple[str, ...] = ("random", "no-replay")) -> Outcome:
    """A stream with InsCL and controls by their names. Stage t gives 10 x i rows of stage i, at distance i / 20."""
    outcome = make_outcome({f"s{n}": "rouge_l" for n in range(1, num_stages + 1)}, controls)
    for line in outcome["lines"]:
        kind = "inscl" if line["name"] == "stream" else line["name"]
        for generation in line["generations"][2:]:
            past = range(1, generation["index"])
            draws = {
                "inscl": [
                    by_instruction(f"s{i}", 10 * i, i / 20, [instruction(f"Do {i}.", float(i), ["a", f"b{i}"])])
                    for i in past
                ],
                "random": [make_draw(f"s{i}", 30) for i in past],
            }.get(kind, [])
            generation["receipt"] = {"seed": 1, "replay": {"kind": kind}, "draws": draws}
    return outcome


def measured_sparsely(outcome: Outcome) -> Outcome:
    """The outcome with the base model's row, the diagonal and the last row of each matrix alone."""
    for line in outcome["lines"]:
        matrix = line["matrix"]
        learned, last = [matrix["learned_at"][task] for task in matrix["tasks"]], len(matrix["R"]) - 1
        matrix["R"] = [
            [score if t in (0, learned[i], last) else None for i, score in enumerate(row)]
            for t, row in enumerate(matrix["R"])
        ]
    return outcome
