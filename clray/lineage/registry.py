"""The registered models of a tracking server, whatever streams they are of: aliases, and who moved them when and why.

`newest` is clray's own alias. All others are a person's: each move is a tag of the registered model,
`clray.alias.<alias>.<n>`, so that the history stands where the alias does and a rollback knows the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from clray.errors import StorageError
from clray.lineage import notes
from clray.lineage.mlflow_experiment import all_pages
from clray.lineage.mlflow_store import default_tracking, library, redact, sqlite_file, translated
from clray.lineage.store import Store

MOVE = "clray.alias"


@dataclass(frozen=True, kw_only=True)
class Alias:
    """An alias of a stream's registered model, and the generation at which it stands."""

    stream: str
    alias: str
    version: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of an alias: to which version and generation, who asked for it, when (UTC) and why."""

    version: str
    key: str
    who: str
    when: str
    why: str
    action: str


class Registry:
    """Reads and moves the aliases at one tracking URI. StorageError where MLflow does not answer."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> Any:
        return library().MlflowClient(self.tracking_uri, self.tracking_uri)

    @cached_property
    def _models(self) -> dict[str, Any]:
        return {model.name: model for model in all_pages(self._client.search_registered_models)}

    @translated
    def aliases(self) -> list[Alias]:
        """All aliases of generations, by stream."""
        found = []
        for model in self._models.values():
            for alias, version in model.aliases.items():
                key = self._client.get_model_version(model.name, str(version)).tags.get("clray.key")
                if key:
                    found.append(Alias(stream=model.name, alias=alias, version=str(version), key=key))
        return found

    @translated
    def versions(self, key: str) -> dict[str, Any]:
        """The generation's registered version in each stream that recorded it."""
        found = all_pages(self._client.search_model_versions, filter_string=f"tags.`clray.key` = '{key}'")
        return {version.name: version for version in found}

    @translated
    def history(self, stream: str, alias: str) -> list[Move]:
        """All moves of the alias, the first one first."""
        tags, start = self._models[stream].tags, f"{MOVE}.{alias}."
        numbers = sorted(int(tag.removeprefix(start)) for tag in tags if tag.startswith(start))
        return [Move(**json.loads(tags[f"{start}{number}"])) for number in numbers]

    @translated
    def moves(self, key: str) -> list[dict[str, str]]:
        """All moves of aliases to the generation: stream, alias and the fields of `Move`."""
        found = []
        for model in self._models.values():
            for tag, text in model.tags.items():
                value = json.loads(text) if tag.startswith(f"{MOVE}.") else {}
                if value.get("key") == key:
                    alias = tag.removeprefix(f"{MOVE}.").rpartition(".")[0]
                    found.append({"stream": model.name, "alias": alias, **value})
        return sorted(found, key=lambda move: move["when"])

    @translated
    def move(self, stream: str, alias: str, move: Move) -> None:
        """Moves the alias, and writes down the move before: interrupted between both, the same command completes it."""
        number = len(self.history(stream, alias)) + 1
        text = json.dumps(asdict(move), ensure_ascii=False)
        self._client.set_registered_model_tag(stream, f"{MOVE}.{alias}.{number}", text)
        self._client.set_registered_model_alias(stream, alias, move.version)
        del self._models


def registries(store: Store, tracking: str | None = None) -> list[Registry]:
    """The registries of the store's streams: at `tracking`, none for "none", else where the streams said.

    A SQLite file that is not there yet has nothing to tell and is not made.
    """
    if tracking == "none":
        return []
    uris: Iterable[str | None] = [tracking] if tracking else notes.tracked_at(store) or [None]
    found = []
    for uri in uris:
        if uri is None and not store.local:
            continue
        resolved = uri or default_tracking(store)
        if redact(resolved) != resolved and not tracking:
            raise StorageError(
                f"the streams of storage '{store.root}' are tracked at '{resolved}', whose credentials are not kept. "
                "Give --tracking URI, or --tracking none to do without MLflow."
            )
        file = sqlite_file(resolved)
        if file is None or file.exists():
            found.append(Registry(resolved))
    return found
