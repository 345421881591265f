"""The continual pre-training benchmark: what a stream of domains does to each of them, before, at and after its stage.

After Yildiz et al. (arXiv 2402.17400), in their names. P[n][j] is the score of generation n (row 0: the base model) on
held-out text of domain j, in perplexity or bits per byte: lower is better. ZS_j = P[0][j] is zero-shot, DAPT_j the
base model trained on domain j alone (the single-task expert), CPT_j = P[j][j] right after the domain's own stage,
LC_j = P[T][j] the last generation. Aggregates are medians over domains, since a few domains lie far out.

Sparse matrices are taken as they are: a cell that was not measured, or is not finite, is left out, and each figure says
how many values it stands on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import linear_regression, quantiles
from typing import Any

from clray.evaluation.matrix import Cell, ScoreMatrix
from clray.spec.task import LOWER_IS_BETTER

COLUMNS = ("zs", "dapt", "cpt", "lc", "fg")


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of `count` values, linear between neighbours as NumPy's default."""

    count: int
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation `rho` and the least-squares `slope` of `count` pairs.

    Both are None with fewer than three pairs, or where one side does not vary.
    """

    count: int
    rho: float | None = None
    slope: float | None = None


@dataclass(frozen=True)
class AtDistance:
    """Changes against zero-shot, `distance` = n - learned_j generations after the domain's own; below 0 before it."""

    distance: int
    change: Quartiles


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A task that the stream teaches at row `learned`: its column of P, and its single-task expert's score."""

    task: str
    stage: str
    learned: int
    scores: tuple[Cell, ...]
    dapt: Cell = None

    @property
    def zs(self) -> Cell:
        """Zero-shot: the base model's score."""
        return self.scores[0]

    @property
    def cpt(self) -> Cell:
        """The score right after the domain's own stage."""
        return self.scores[self.learned]

    @property
    def lc(self) -> Cell:
        """The last generation's score."""
        return self.scores[-1]

    @property
    def fg(self) -> Cell:
        """Forgetting LC - CPT, in the unit of the scores: above 0 is a loss; 0 for what the last stage teaches."""
        return None if self.lc is None or self.cpt is None else self.lc - self.cpt

    @property
    def gain(self) -> Cell:
        """(DAPT - CPT) / DAPT, how much better the stream learns the domain than a model trained on it alone."""
        return _improvement(self.dapt, self.cpt)

    def change(self, row: int) -> Cell:
        """Delta = (ZS - P[row]) / ZS: above 0 the generation is better on the domain than the base model."""
        return _improvement(self.zs, self.scores[row])

    def brought(self, row: int) -> Cell:
        """(P[row - 1] - P[row]) / P[row - 1], what the stage of this row alone brought to the domain."""
        return _improvement(self.scores[row - 1], self.scores[row])

    def to_dict(self) -> dict[str, Any]:
        """One row of the per-domain table as plain values."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {"task": self.task, "stage": self.stage, "learned": self.learned, **columns}


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The benchmark of one line in one unit of score; `domains` in the order in which they are taught."""

    metric: str
    domains: tuple[Domain, ...]

    @cached_property
    def medians(self) -> dict[str, Quartiles | None]:
        """Median and quartiles over the domains of each of COLUMNS; None where no domain has a value."""
        return {name: quartiles(getattr(domain, name) for domain in self.domains) for name in COLUMNS}

    @cached_property
    def beats_expert(self) -> tuple[int, int]:
        """On how many domains CPT is lower than DAPT, and how many have both."""
        both = [(d.cpt, d.dapt) for d in self.domains if d.cpt is not None and d.dapt is not None]
        return sum(cpt < dapt for cpt, dapt in both), len(both)

    @cached_property
    def distances(self) -> tuple[AtDistance, ...]:
        """The changes against zero-shot by distance, farthest before the domains' own stages first; 0 is CPT's."""
        found: dict[int, list[float]] = defaultdict(list)
        for distance, change in self._changes:
            found[distance].append(change)
        spreads = ((distance, quartiles(changes)) for distance, changes in sorted(found.items()))
        return tuple(AtDistance(distance, spread) for distance, spread in spreads if spread is not None)

    @cached_property
    def backward(self) -> Quartiles | None:
        """Backward transfer: the changes against zero-shot of all generations after the domains' own."""
        return quartiles(change for distance, change in self._changes if distance > 0)

    @cached_property
    def forward(self) -> Quartiles | None:
        """Forward transfer: the changes against zero-shot of all trained generations before the domains' own."""
        return quartiles(change for distance, change in self._changes if distance < 0)

    @cached_property
    def learning(self) -> Correlation:
        """Loss of learning: the gain over DAPT against the number of the stage; a falling gain is lost plasticity.

        The slope is the change of the gain, a share of DAPT, with each stage.
        """
        return correlation((d.learned, d.gain) for d in self.domains if d.gain is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: tables, medians, curves and correlations."""
        wins, compared = self.beats_expert
        return {
            "metric": self.metric,
            "domains": [domain.to_dict() for domain in self.domains],
            "medians": {name: spread and asdict(spread) for name, spread in self.medians.items()},
            "beats_expert": {"count": wins, "of": compared},
            "distances": [{"distance": at.distance, **asdict(at.change)} for at in self.distances],
            "backward": self.backward and asdict(self.backward),
            "forward": self.forward and asdict(self.forward),
            "learning": asdict(self.learning),
        }

    @property
    def _changes(self) -> list[tuple[int, float]]:
        """(n - learned_j, change) of every measured cell of a trained generation."""
        cells = ((n - d.learned, d.change(n)) for d in self.domains for n in range(1, len(d.scores)))
        return [(distance, change) for distance, change in cells if change is not None]


def transfers(matrix: ScoreMatrix, experts: Mapping[str, float] | None = None) -> tuple[Transfer, ...]:
    """The benchmark in each unit whose lower score is the better one, as far as the matrix has taught tasks in it.

    `experts` are the scores of models trained on one task alone, by task. Probes, tasks that are not taught yet and
    tasks in other units are left out.
    """
    found = (_transfer(matrix.of(metric), metric, experts or {}) for metric in matrix.units)
    return tuple(transfer for transfer in found if transfer.metric in LOWER_IS_BETTER and transfer.domains)


def similarity_correlation(similarity: Mapping[str, Any], transfer: Transfer) -> Correlation:
    """How the similarity of two domains goes with what training on the one brings to the other.

    Over ordered pairs (i trained, j tested): the cosine of both against `brought` of j at i's stage, and the slope as
    a share of the score for a cosine of one. Pairs that one stage teaches together are left out. `similarity` has the
    square matrix "cosine" and the names of its rows: "domains" (tasks), or "stages", where a task counts as the stage
    that teaches it. Pairs share their domains, so the number of pairs overstates the evidence.
    """
    places = similarity_places(similarity, transfer)
    trained = dict.fromkeys((d.learned, place) for d, place in zip(transfer.domains, places, strict=True))
    return correlation(
        (cosine, change)
        for learned, i in trained
        for tested, j in zip(transfer.domains, places, strict=True)
        if tested.learned != learned and i is not None and j is not None
        if (cosine := known(similarity["cosine"][i][j])) is not None
        if (change := tested.brought(learned)) is not None
    )


def similarity_places(similarity: Mapping[str, Any], transfer: Transfer) -> list[int | None]:
    """The row of each domain in the similarity matrix, by the name of its task or stage; None where it has none."""
    rows = {name: n for n, name in enumerate(similarity.get("domains") or similarity["stages"])}
    return [rows.get(domain.task, rows.get(domain.stage)) for domain in transfer.domains]


def quartiles(values: Iterable[Cell]) -> Quartiles | None:
    """Median and quartiles of the values that there are; None without any."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    low, median, high = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    return Quartiles(len(numbers), low, median, high)


def correlation(pairs: Iterable[tuple[float, float]]) -> Correlation:
    """Spearman's correlation of the pairs, and the slope of the second over the first."""
    found = list(pairs)
    if len(found) < 3 or any(len(set(side)) < 2 for side in zip(*found, strict=True)):
        return Correlation(len(found))
    from scipy.stats import spearmanr

    x, y = zip(*found, strict=True)
    return Correlation(len(found), float(spearmanr(x, y).statistic), linear_regression(x, y).slope)


def known(value: Any) -> Cell:
    """The number; None where it was not measured or is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def _transfer(part: ScoreMatrix, metric: str, experts: Mapping[str, float]) -> Transfer:
    columns = zip(*part.R, strict=True)
    domains = [
        Domain(
            task=task,
            stage=part.stages[learned],
            learned=learned,
            scores=tuple(map(known, column)),
            dapt=known(experts.get(task)),
        )
        for task, learned, column in zip(part.tasks, part.learned_rows, columns, strict=True)
        if learned is not None and learned < len(part.R)
    ]
    return Transfer(metric=metric, domains=tuple(sorted(domains, key=lambda domain: domain.learned)))


def _improvement(before: Cell, after: Cell) -> Cell:
    """(before - after) / before of scores whose lower one is better; None where `before` is no reference."""
    return None if before is None or after is None or before <= 0 else (before - after) / before
