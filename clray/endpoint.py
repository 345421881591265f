"""Asking a model behind an OpenAI-compatible endpoint for JSON, with patience, and with a key that nobody else sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from clray.errors import ModelError

AT_ONCE = 8
"""Requests under way at the same time."""

Answer = TypeVar("Answer")


class AnswerError(ModelError):
    """An answer that is not the JSON asked for."""


class Endpoint(Generic[Answer]):
    """Asks for JSON of a schema, which `read` turns into an answer (AnswerError where it breaks the schema).

    `spec` is a spec.Endpoint as plain values; `who` stands in messages before "endpoint". Raises ModelError where the
    package is missing or the environment variable that `key_env` names is not set. The key goes to the client alone:
    no message of clray holds it, whatever a server says.
    """

    def __init__(
        self, spec: dict[str, Any], who: str, name: str, schema: dict[str, Any], read: Callable[[str], Answer]
    ) -> None:
        self._spec, self._who, self._read = spec, who, read
        self._form: Any = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
        if find_spec("openai") is None:
            raise ModelError(f"{self._place()} needs the package openai: pip install 'clray[tagging]'")
        import openai

        self._key = self._held_key()
        self._client = openai.OpenAI(
            base_url=spec["url"], api_key=self._key, timeout=spec["timeout_seconds"], max_retries=spec["retries"]
        )

    def ask(self, messages: Sequence[str], about: Sequence[str]) -> list[Answer]:
        """The answer to each message, in order; `about` says what each is about, for messages of errors.

        The client sends a request again, up to `retries` times, where the server is busy, broken or not reached; an
        answer that is not the JSON asked for is asked for again as often. ModelError where that does not help.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._ask, messages, about))

    def _ask(self, message: str, about: str) -> Answer:
        fault = ""
        for _ in range(self._spec["retries"] + 1):
            try:
                return self._read(self._answer(message))
            except AnswerError as error:
                fault = str(error)
        raise ModelError(
            f"{self._place()}, {about}: {fault}. Use a model and a server that keep to response_format json_schema, "
            "or more retries"
        )

    def _answer(self, message: str) -> str:
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self._spec["model"],
                messages=[{"role": "user", "content": message}],
                temperature=0,
                response_format=self._form,
            )
        except (openai.OpenAIError, ValueError) as error:
            raise ModelError(f"{self._place()}: {self._refusal(error)}") from None  # the cause may quote the key
        choices = getattr(completion, "choices", None)
        return self._hidden(choices[0].message.content or "") if choices else ""

    def _hidden(self, text: str) -> str:
        """What a server says, without the key, since it ends up in messages."""
        return text.replace(self._key, "***") if self._spec["key_env"] else text

    def _place(self) -> str:
        return f"{self._who} endpoint {self._spec['url']}, model '{self._spec['model']}'"

    def _refusal(self, error: Exception) -> str:
        """What went wrong, and the mend."""
        import openai

        match error:
            case openai.APITimeoutError():
                return f"no answer within {self._spec['timeout_seconds']:g} s; raise timeout_seconds"
            case openai.APIConnectionError():
                return "not reached; check the url, and that the server runs"
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                variable = self._spec["key_env"]
                held = f"the key in '{variable}'" if variable else "requests without a key; name one with key_env"
                return f"refuses {held} (HTTP {error.status_code})"
            case openai.APIStatusError():
                said = self._hidden(str(error.message))[:200]
                return f"HTTP {error.status_code}: {said}; check the url (it ends in /v1 mostly) and the model's name"
            case _:
                return f"its answer is no chat completion ({type(error).__name__}); check the url"

    def _held_key(self) -> str:
        """The API key; a word in its place where none is asked for, since the client sends one always."""
        name = self._spec["key_env"]
        if name is None:
            return "none"
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            fault = "holds characters that no HTTP header can" if key else "is not set where clray runs"
            raise ModelError(
                f"{self._who} endpoint {self._spec['url']}: the environment variable '{name}' that should hold its key "
                f"{fault}; export the key, or leave key_env out where none is needed"
            )
        return key
