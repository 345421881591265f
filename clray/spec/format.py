"""How records become prompts and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from clray.spec.strict import Strict


class Format(Strict):
    """How an instruction record becomes text. Training and measuring share it."""

    prompt: str = Field(
        "{instruction}\n\n{input}\n\nAnswer:",
        description="template of the prompt, or 'chat' for the tokenizer's own chat template",
    )
    answer: str = Field(" {output}", description="template of the answer; the end-of-sequence token follows it")
    overlong: Literal["error", "truncate", "skip"] = Field(
        "error", description="an example longer than the sequence: refuse, cut the prompt's middle, or leave out"
    )

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        if value != "chat" and "{instruction}" not in value:
            raise ValueError("the prompt must hold {instruction} (and may hold {input}), or be 'chat'")
        return value

    @field_validator("answer")
    @classmethod
    def _answer(cls, value: str) -> str:
        if "{output}" not in value:
            raise ValueError("the answer must hold {output}")
        return value
