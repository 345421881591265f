"""Outcomes with evolve rounds, as `clray.evolving` tells them: invented, but each share from whole answers."""

from __future__ import annotations

from typing import Any

from report_outcomes import Outcome, make_outcome

SUBJECTS = {"biology": 60, "physics": 40}
PASSAGE = {"title": "Mitosis", "text": "In metaphase the chromosomes line up along the middle of the cell."}


def make_change(wrong: int, right: int, repaired: int, flipped: int, tokens: int = 0) -> dict[str, Any]:
    """What changed of `wrong` + `right` questions, when so many were repaired and turned wrong."""
    total = wrong + right
    before, after = (right / total, (right + repaired - flipped) / total) if total else (None, None)
    gain = None if before is None or after is None else after - before
    return {
        "before": before,
        "after": after,
        "gain": gain,
        "wrong_before": wrong,
        "repaired": repaired / wrong if wrong else None,
        "right_before": right,
        "afr": flipped / right if right else None,
        "gain_per_1k_tokens": 1000 * gain / tokens if tokens and gain is not None else None,
    }


def make_side(subjects: dict[str, int], right: float, repaired: float, flipped: float, tokens: int) -> dict[str, Any]:
    """One side: of each subject's questions a share was right; shares of the wrong and of the right ones changed."""

    def part(number: int) -> dict[str, Any]:
        known = round(number * right)
        wrong = number - known
        by_likelihood = make_change(wrong, known, round(wrong * repaired), round(known * flipped), tokens)
        by_writing = make_change(wrong, known, round(wrong * repaired / 2), round(known * flipped), tokens)
        return {
            "questions": number,
            "likelihood": by_likelihood,
            "written": by_writing,
            "parse_fail_before": 0.2,
            "parse_fail_after": 0.05,
        }

    return {**part(sum(subjects.values())), "subjects": {name: part(number) for name, number in subjects.items()}}


def make_example(question: str, heldout: bool = False, **more: Any) -> dict[str, Any]:
    """One question with two options, the first of them right."""
    return {
        "question": question,
        "options": ["metaphase", "anaphase"],
        "gold": "metaphase",
        "heldout": heldout,
        "before": {"written": "anaphase", "p_gold": 0.31},
        "after": {"written": "metaphase", "p_gold": 0.78},
        "points": [] if heldout else ["metaphase"],
        "passages": [] if heldout else [PASSAGE],
        **more,
    }


def make_round(
    number: int = 1,
    right: float = 0.4,
    repaired: float = 0.25,
    flipped: float = 0.1,
    control: str = "none",
    subjects: dict[str, int] | None = None,
) -> dict[str, Any]:
    """A round of stage "science". Of 400 questions to learn from 200 are known, and the round repairs half as many
    again of the others as of the held-out ones."""
    subjects = SUBJECTS if subjects is None else subjects
    reads = control in ("none", "cpt_only", "random_documents")
    tokens = 12_000 if reads else 0
    return {
        "stage": "science",
        "round": number,
        "control": control,
        "questions": {"schema": 20, "knowledge": 120, "ambiguous": 60, "known": 200},
        "mistakes": 200,
        "points": 520 if reads else 0,
        "passages": 310 if reads else 0,
        "leaking_passages": 12 if reads else 0,
        "leaks": 3,
        "rows": {"cpt": 298 if reads else 0, "normative": 200, "extractive": 180, "review": 60, "general": 0},
        "tokens_read": tokens,
        "change": {
            "mine": make_side({name: 4 * n for name, n in subjects.items()}, 0.5, min(1, 1.5 * repaired), 0.05, tokens),
            "heldout": make_side(subjects, right, repaired, flipped, tokens),
        },
        "stop": None,
        "examples": {
            "repaired": [make_example(f"In which phase do chromosomes line up? ({number})")],
            "still_wrong": [make_example("What is a mole?", heldout=True)],
            "flipped": [],
        },
    }


def make_evolved(controls: tuple[str, ...] = ("format_only", "random_documents"), rounds: int = 2) -> Outcome:
    """A stream of one pretrain stage and an evolve stage "science", and controls of that, which repair less."""
    names = ["wiki", *(f"science-{n}" for n in range(1, rounds + 1))]
    outcome = make_outcome({name: "accuracy" for name in names}, controls)
    for line in outcome["lines"]:
        kind = "none" if line["name"] == "stream" else line["name"]
        right = 0.4
        for generation in line["generations"][2:]:
            repaired = 0.25 if kind == "none" else 0.15
            told = make_round(generation["index"] - 1, right, repaired, 0.1, kind)
            generation["evolved"], right = told, told["change"]["heldout"]["likelihood"]["after"]
    return outcome
