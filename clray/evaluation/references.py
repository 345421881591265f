"""What a generation thinks of preference pairs before it is trained on them: log p of each answer, computed once.

    references/<digest>/   a part for each run of packed sequences   manifest.json committed last

A row is a packed sequence of the mixture: log p, in nats, of the answer in each of its segments, chosen and rejected in
turn. The address is the generation, the mixture and the precision, so other losses over the same pairs ask nothing
again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clray.data.batches import PackedShards
from clray.data.batches import Sequence as Packed
from clray.data.manifest import Manifest, Part, write_part
from clray.evaluation.choice import ChoiceExample, score_choices
from clray.lineage.key import digest
from clray.lineage.store import Store

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """The log-probabilities that the generation of that key gives the pairs of the mixture."""

    generation: str
    mixture: str
    precision: str

    @property
    def digest(self) -> str:
        """Their address."""
        return digest([VERSION, self.generation, self.mixture, self.precision])

    @property
    def folder(self) -> str:
        """Where they lie in the store."""
        return f"references/{self.digest}"

    def receipt(self) -> dict[str, Any]:
        """Who was asked, and where the answers lie, for the generation's record."""
        return {"generation": self.generation, "folder": self.folder}

    def shards(self, store: Store) -> PackedShards:
        """The packed pairs."""
        manifest = Manifest.load(store, f"mixtures/{self.mixture}")
        assert manifest is not None, f"mixture {self.mixture} was not prepared"
        return PackedShards(store, manifest)


def score_part(
    model: Any, spec: ReferenceSpec, store: Store, number: int, rows: range, batch_tokens: int
) -> dict[str, Any]:
    """Writes part `number`, of these rows of the mixture; returns its manifest entry."""
    shards = spec.shards(store)
    pairs = [list(pairs_of(shards[row])) for row in rows]
    results = score_choices(model, list(itertools.chain(*pairs)), batch_tokens, pad_id=0, normalise="none")
    scores = iter(results)
    halves = [[value for _ in some for value in next(scores)["scores"]] for some in pairs]
    table = pa.table(
        {
            "log_probs": pa.array(halves, pa.list_(pa.float64())),
            "num_tokens": pa.array(shards.num_tokens[list(rows)]),
            "num_targets": pa.array(shards.num_targets[list(rows)]),
        }
    )
    return dataclasses.asdict(write_part(store, spec.folder, number, table))


def pairs_of(sequence: Packed) -> Iterator[ChoiceExample]:
    """The pairs of a packed sequence: the prompt, and the chosen and the rejected answer as options."""
    bounds = np.concatenate([[0], np.cumsum(sequence.segments)])
    halves = [(sequence.ids[a:b], sequence.targets[a:b]) for a, b in itertools.pairwise(bounds.tolist())]
    for (ids, targets), (others, wanted) in zip(halves[::2], halves[1::2], strict=True):
        yield ChoiceExample(
            prompt_ids=tuple(ids[~targets].tolist()),
            options=(tuple(ids[targets].tolist()), tuple(others[wanted].tolist())),
            gold=0,
        )


def commit(spec: ReferenceSpec, store: Store, parts: Sequence[dict[str, Any]]) -> None:
    """Makes the log-probabilities exist."""
    entries = tuple(Part(**part) for part in parts)
    provenance = {"generation": spec.generation, "mixture": spec.mixture, "precision": spec.precision}
    Manifest(digest=spec.digest, folder=spec.folder, parts=entries, provenance=provenance).commit(store)
