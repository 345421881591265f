"""A generation: what a stage produced, and the record of how. Immutable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

ADAPTER_CONFIG = "weights/adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The record of one generation, as `generation.json` beside its weights holds it.

    Attributes:
        key: content address (see `lineage.key`); also the folder's name.
        parent: key of the parent; None for generation 0.
        index: number of stages since generation 0.
        stage_name: name of the stage that made it; "base" for generation 0.
        base: key of the generation whose complete weights lie below this one; its own key where the
            weights here are complete, another where they are an adapter on top.
        adapter: None where the weights are complete, else the adapter's kind and shape.
        stage: the resolved stage as it went into the key; empty for generation 0.
        inheritance: hyper-parameter -> (value, where from): "stage", "stream", "inherited", "default".
        data: manifest of the mixture: digest, rows, tokens, targets, and the share of each origin.
        receipt: each replay draw: origin -> quota asked, drawn, seed, digests of rows.
        training: steps, tokens, targets, seconds, tokens_per_second, flops, first and last loss; the most memory of a
            worker and, where the machine counts it, energy in joules (see `train.meters`).
        environment: versions of Python and packages, device, platform.
        files: relative path -> SHA-256 of each file of the generation.
        created: UTC time, ISO 8601.
        run: name and digest of the stream's file that made it (see `lineage.notes`): workers, devices, attention. None
            of it decides the result beyond rounding; with it the record alone suffices to make the generation again.
    """

    key: str
    parent: str | None
    index: int
    stage_name: str
    base: str
    adapter: dict[str, Any] | None = None
    stage: dict[str, Any] = field(default_factory=dict)
    inheritance: dict[str, tuple[Any, str]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    created: str = ""
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """First ten digits of the key, as shown to people."""
        return self.key[:10]

    @property
    def complete(self) -> bool:
        """Whether the weights need no other generation below them."""
        return self.base == self.key

    def same_bits(self, files: dict[str, str]) -> bool:
        """Whether `files` are those of this generation. A PEFT adapter's configuration does not count: it names the
        folder of the model below, and all else in it stands in the recipe."""
        names = {*files, *self.files}
        return all(files.get(n) == self.files.get(n) or (n == ADAPTER_CONFIG and n in files) for n in names)

    def files_below(self, folder: str) -> dict[str, str]:
        """Name -> SHA-256 of the generation's files in that folder of its own."""
        start = f"{folder}/"
        return {name.removeprefix(start): mark for name, mark in self.files.items() if name.startswith(start)}

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Generation:
        """The generation that `to_dict` made `record` of; unknown fields of newer versions are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})
