"""The tagger that a stream asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from clray.errors import ModelError
from clray.instructions.prompt import FORMS, TAGS, Form

Tags = Callable[[Sequence[str]], list[list[str]]]
"""From instructions to the tags of each."""


def make_tagger(spec: dict[str, Any]) -> Tags:
    """The tagger of a LexicalTagger, ModelTagger or EndpointTagger given as plain values; of whatever list its `form`
    names, where it has one.

    Each distinct instruction is tagged once, in the order of first appearance; one without any text has no tags.
    Raises ModelError where an optional package or the endpoint's key is missing.
    """
    return _once(MAKERS[spec["kind"]](spec))


def _lexical(spec: dict[str, Any]) -> Tags:
    from clray.instructions.lexical import lexical_tags

    return lambda texts: lexical_tags(texts, spec["most"], spec["language"])


def _model(spec: dict[str, Any]) -> Tags:
    from clray.instructions.local_model import ModelTags

    check(spec)
    return ModelTags(spec, _form(spec))


def _endpoint(spec: dict[str, Any]) -> Tags:
    from clray.instructions.endpoint import EndpointTags

    return EndpointTags(spec, _form(spec))


MAKERS: dict[str, Callable[[dict[str, Any]], Tags]] = {"lexical": _lexical, "model": _model, "endpoint": _endpoint}


def check(spec: dict[str, Any]) -> None:
    """ModelError where an optional package or the endpoint's key is missing."""
    if spec["kind"] == "endpoint":
        make_tagger(spec)
    elif spec["kind"] == "model" and find_spec("llguidance") is None:
        raise ModelError(
            f"{_form(spec).who} of kind 'model' needs the package llguidance: pip install 'clray[tagging]'"
        )


def _form(spec: dict[str, Any]) -> Form:
    return FORMS[spec.get("form", TAGS.name)]


def _once(tag: Tags) -> Tags:
    def tags_of(texts: Sequence[str]) -> list[list[str]]:
        distinct = [text for text in dict.fromkeys(texts) if text.strip()]
        known = dict(zip(distinct, tag(distinct) if distinct else [], strict=True))
        return [list(known.get(text, [])) for text in texts]

    return tags_of
