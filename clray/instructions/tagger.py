"""The tagger that a stream asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from clray.errors import ModelError

Tags = Callable[[Sequence[str]], list[list[str]]]
"""From instructions to the tags of each."""


def make_tagger(spec: dict[str, Any]) -> Tags:
    """The tagger of a LexicalTagger, ModelTagger or EndpointTagger given as plain values.

    Each distinct instruction is tagged once, in the order of first appearance; one without any text has no tags.
    Raises ModelError where an optional package or the endpoint's key is missing.
    """
    return _once(MAKERS[spec["kind"]](spec))


def _lexical(spec: dict[str, Any]) -> Tags:
    from clray.instructions.lexical import lexical_tags

    return lambda texts: lexical_tags(texts, spec["most"], spec["language"])


def _model(spec: dict[str, Any]) -> Tags:
    from clray.instructions.local_model import ModelTags

    _require("llguidance", "model")
    return ModelTags(spec)


def _endpoint(spec: dict[str, Any]) -> Tags:
    from clray.instructions.endpoint import EndpointTags

    _require("openai", "endpoint")
    return EndpointTags(spec)


MAKERS: dict[str, Callable[[dict[str, Any]], Tags]] = {"lexical": _lexical, "model": _model, "endpoint": _endpoint}


def _require(package: str, kind: str) -> None:
    if find_spec(package) is None:
        raise ModelError(f"the tagger of kind '{kind}' needs the package {package}: pip install 'clray[tagging]'")


def _once(tag: Tags) -> Tags:
    def tags_of(texts: Sequence[str]) -> list[list[str]]:
        distinct = [text for text in dict.fromkeys(texts) if text.strip()]
        known = dict(zip(distinct, tag(distinct) if distinct else [], strict=True))
        return [list(known.get(text, [])) for text in texts]

    return tags_of
