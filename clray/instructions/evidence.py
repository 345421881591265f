"""What InsCL needs to know of a stage and its past: distances between instructions, and InsInfo of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clray.data.book import Book
from clray.instructions import cleaning, workers
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.replay.draw import Index
from clray.replay.inscl import Evidence
from clray.replay.insinfo import insinfo
from clray.replay.wasserstein import choose
from clray.spec.stream import Evaluation

VERSION = 1
Tags = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One stage and its past, and the choices by which they are compared.

    `replay` is the method's choice with models kept in the store (`kept.keep_models`); `generation` the key of the
    generation whose hidden states are the embeddings, where the encoder is one.
    """

    own: Index
    past: Sequence[Index]
    replay: dict[str, Any]
    generation: str
    store: Store
    evaluation: Evaluation

    def evidence(self) -> Evidence:
        """The evidence for the draw; found on Ray, and kept under the content that it depends on."""
        distances, solver, why = self._distances() if self.replay["quotas_by"] != "equal" else (None, "", "")
        tags = self._tags() if self.replay["rows_by"] == "insinfo" else None
        return Evidence(
            quotas_by=self.replay["quotas_by"],
            distances=distances,
            solver=solver,
            why=why,
            tags=None if tags is None else tags[:-1],
            insinfo=None if tags is None else _insinfo(tags)[:-1],
            stages=len(self.past),
        )

    @property
    def _sets(self) -> list[Index]:
        """The earlier stages, then the stage itself."""
        return [*self.past, self.own]

    def _distances(self) -> tuple[tuple[float, ...], str, str]:
        """Distance of each earlier stage's instructions from the stage's own, how it was computed, and why so."""
        sets = self._sets
        vectors = [self._embed(index.instructions) for index in sets]
        if self.replay["centre"]:
            centre = np.concatenate(vectors).mean(axis=0)
            vectors = [part - centre for part in vectors]
        weighted = [
            (part, index.rows_by_instruction.astype(np.float64)) for part, index in zip(vectors, sets, strict=True)
        ]
        solver, why = choose([len(part) for part in vectors], self.replay["solver"])
        found = workers.distances(weighted[-1], weighted[:-1], self.replay["metric"], solver, self.store)
        return tuple(one.value for one in found), solver, why

    def _tags(self) -> tuple[Tags, ...]:
        """Clean and merged tags of each instruction, of the earlier stages and then of the stage itself."""
        texts = [text for index in self._sets for text in index.instructions]
        distinct = sorted(set(texts))
        merged = cleaning.merge(self._tag(distinct), self._embed, self.replay["tag_radius"])
        by_text = dict(zip(distinct, (tuple(tags) for tags in merged), strict=True))
        return tuple(tuple(by_text[text] for text in index.instructions) for index in self._sets)

    def _tag(self, texts: list[str]) -> list[list[str]]:
        """Clean tags of each text. Those of a model or endpoint are kept; lexical ones depend on all texts together."""
        tagger = self.replay["tagger"]
        if tagger["kind"] == "lexical":
            return workers.tag(texts, tagger, self.store, self.evaluation)
        name = f"instructions/tags-{digest([VERSION, {k: tagger[k] for k in ('kind', 'model', 'most')}])}"
        book = Book(self.store, name, pa.string(), lambda new: workers.tag(new, tagger, self.store, self.evaluation))
        return [[c for tag in tags if (c := cleaning.clean(tag, "en"))] for tags in book.of(texts).to_pylist()]

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n, d) embeddings of the texts."""
        encoder = self.replay["encoder"]
        if encoder["kind"] == "generation":
            encoder = {"kind": "generation", "key": self.generation}
        book = Book(
            self.store,
            f"instructions/embeddings-{digest([VERSION, encoder])}",
            pa.float32(),
            lambda new: workers.embed(new, encoder, self.store, self.evaluation),
        )
        found = book.of(texts)
        return found.flatten().to_numpy().astype(np.float64).reshape(len(texts), -1)


def _insinfo(tags: Sequence[Tags]) -> tuple[NDArray[np.float64], ...]:
    """InsInfo of each instruction of each set, among the instructions of all sets."""
    values = insinfo([instruction for part in tags for instruction in part])
    return tuple(np.split(values, np.cumsum([len(part) for part in tags])[:-1]))
