"""Tags, or points, from a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clray.endpoint import Endpoint
from clray.instructions.prompt import TAGS, Form


class EndpointTags:
    """Asks the endpoint for the tags of instructions, or whatever list the form names. `spec` is an EndpointTagger as
    plain values. ModelError as of `Endpoint`."""

    def __init__(self, spec: dict[str, Any], form: Form = TAGS) -> None:
        self._form, self._most = form, spec["most"]
        self._endpoint = Endpoint(spec, form.who, form.name, form.schema(self._most), form.parse)

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """The tags of each instruction, at most `most`."""
        asked = [self._form.question(text, self._most) for text in texts]
        about = [f"{self._form.about} {text[:80]!r}" for text in texts]
        return [found[: self._most] for found in self._endpoint.ask(asked, about)]
