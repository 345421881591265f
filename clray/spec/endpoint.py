"""Models beside the stream's own that are asked for text: behind an endpoint, or from a folder."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from clray.spec.strict import Strict

ADDRESSES = frozenset({"url", "key_env", "timeout_seconds", "retries", "limit"})
"""Fields of an endpoint that say where it is and how patiently it is asked: no answer depends on them."""


class Endpoint(Strict):
    """An OpenAI-compatible endpoint (optional extra: clray[tagging])."""

    url: str = Field(description="base URL of the API, say http://127.0.0.1:8000/v1")
    model: str = Field(description="name of the model there")
    key_env: str | None = Field(None, description="environment variable that holds the API key; the key stays there")
    timeout_seconds: float = Field(60.0, gt=0)
    retries: int = Field(3, ge=0, description="times that a failed request is sent again")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            raise ValueError("the url must be http:// or https://, without user, password or query")
        return value


class LocalModel(Strict):
    """A local instruct model, its answer constrained to JSON (optional extra: clray[tagging])."""

    model: str = Field(description="Hugging Face id or folder of a causal language model")
    revision: str | None = Field(None, description="revision of a Hugging Face id")
    max_new_tokens: int = Field(256, ge=16)


class Judge(Endpoint):
    """A model behind an endpoint that says whether a written answer is right. Each answer is asked about once."""

    rubric: str = Field("", description="what else makes an answer right or wrong, in plain words")
    limit: int = Field(10_000, ge=1, description="most answers of one exam or task; more are refused while planning")


def identity(asked: dict[str, Any]) -> dict[str, Any]:
    """What of a model's fields, as plain values, can change an answer: all but addresses and patience."""
    return {name: value for name, value in asked.items() if name not in ADDRESSES}
