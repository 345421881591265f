"""Outcomes of continual pre-training: domains in three families, whose stages help their kin and hurt the others."""

from __future__ import annotations

import random
from typing import Any

from report_outcomes import Outcome, make_outcome

DOMAINS = (
    "history", "geography", "biography", "culture-and-the-arts", "physics", "chemistry", "condensed-matter",
    "astrophysics", "python", "shell", "c", "documentation",
)  # fmt: skip


def make_pretrained(
    domains: tuple[str, ...] = DOMAINS, controls: tuple[str, ...] = ("reversed",), probe: str | None = "web"
) -> Outcome:
    """A stream of pretrain stages, one a domain, beside controls that go through them backwards; with experts for all
    but the last domain, and the similarity of the stages."""
    outcome = _ordered("stream", domains, probe)
    outcome["lines"] += [_ordered(name, domains[::-1], probe)["lines"][0] for name in controls]
    matrix = outcome["lines"][0]["matrix"]
    zero_shot = dict(zip(matrix["tasks"], matrix["R"][0], strict=True))
    outcome["experts"] = {domain: round(0.76 * zero_shot[domain], 4) for domain in domains[:-1]}
    outcome["similarity"] = {
        "stages": list(domains),
        "cosine": [[_cosine(a, b, domains) for b in domains] for a in domains],
        "start": [0.1] * len(domains),
    }
    return outcome


def _ordered(name: str, domains: tuple[str, ...], probe: str | None) -> Outcome:
    outcome = make_outcome(dict.fromkeys(domains, "bits_per_byte"), controls=(), probe=None)
    [line] = outcome["lines"]
    line["name"] = name
    for generation in line["generations"][1:]:
        generation["stage"] = {"kind": "pretrain"}
    tasks = sorted(domains)
    rows = _rows(tasks, domains)
    matrix = line["matrix"]
    matrix |= {
        "tasks": [*tasks, *([probe] if probe else [])],
        "metrics": dict.fromkeys([*tasks, *([probe] if probe else [])], "bits_per_byte"),
        "learned_at": {task: domains.index(task) + 1 for task in tasks} | ({probe: None} if probe else {}),
        "R": [[*row, *([1.0 + 0.01 * n] if probe else [])] for n, row in enumerate(rows)],
    }
    return outcome


def _rows(tasks: list[str], domains: tuple[str, ...]) -> list[list[float]]:
    """Row 0 between 1.1 and 1.9; each stage takes a third off its own domain, less the later it comes."""
    base = [random.Random(task).uniform(1.1, 1.9) for task in tasks]
    rows, rng = [base], random.Random("noise")
    for number, trained in enumerate(domains):
        fade = 1 - 0.4 * number / len(domains)
        rows.append(
            [
                now * (1 - 0.34 * fade)
                if task == trained
                else now * (1 - 0.07 * _cosine(task, trained, tuple(sorted(domains))) + 0.012 + rng.gauss(0, 0.006))
                for task, now in zip(tasks, rows[-1], strict=True)
            ]
        )
    return [[round(score, 4) for score in row] for row in rows]


def _cosine(a: str, b: str, domains: tuple[str, ...]) -> float:
    """High within a family, that is in the same third of DOMAINS."""
    if a == b:
        return 1.0
    rng = random.Random("-".join(sorted((a, b))))
    family: dict[str, Any] = {name: n // 4 for n, name in enumerate(DOMAINS)}
    kin = family.get(a, a) == family.get(b, b)
    return round((0.75 if kin else -0.2) + rng.uniform(-0.15, 0.15), 4)
