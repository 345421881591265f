"""Where records come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from clray.spec.strict import Strict


class Source(Strict):
    """Where records come from: files, globs, object stores, a Hugging Face data set, or builtin text."""

    source: str = Field(description="path, glob, s3:// or gs:// URI, hf:NAME, or builtin:NAME")
    split: str = Field("train", description="split of an hf: or builtin: source")
    fields: dict[str, str] = Field(
        default_factory=dict, description="clray's field -> the file's, say {instruction: question}"
    )
    instruction: str | None = Field(None, description="constant instruction for records that have none")
    limit: int | None = Field(None, ge=1, description="at most so many records, the first in file order")


def _sources(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else [value]
    return tuple({"source": item} if isinstance(item, str) else item for item in items)


Sources = Annotated[tuple[Source, ...], BeforeValidator(_sources)]
