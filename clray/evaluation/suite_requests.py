"""What a suite asks a model, in token ids, and a model's responses to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs

from clray.data.formatting import start_token
from clray.errors import DataError
from clray.evaluation.suite_scoring import SuiteExample


class Encoder(TemplateLM):  # type: ignore[misc]
    """A model of lm-eval that responds to each request with its token ids, as lm-eval's own Hugging Face model encodes
    them: a prompt that is too long loses its beginning.

    `context` is the most tokens that the model reads at once.
    """

    def __init__(self, tokenizer: Any, context: int) -> None:
        super().__init__()
        self.tokenizer, self._context = tokenizer, context

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        return start_token(self.tokenizer)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids with the tokenizer's own special tokens, of which a text that begins with them gets no more."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[list[int], list[int]]]:
        """Prompt and continuation of each; the last token of a continuation is predicted and never read."""
        return [
            (prompt[len(answer) - self._context - 1 :], answer) for _, prompt, answer in map(self._checked, requests)
        ]

    def _checked(self, request: Any) -> Any:
        (_, text), _, answer = request
        if not 0 < len(answer) <= self._context:
            raise DataError(f"the answer {text[:40]!r} takes {len(answer)} tokens; it needs 1 to {self._context}")
        return request

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[list[int]]:
        """The ids of each text, behind the token that every text starts with."""
        return [[self.prefix_token_id, *self.tok_encode(request.args[0])] for request in requests]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[list[int], list[str], int]]:
        """Prompt, the texts that end an answer, and the most tokens of it."""
        return [self._written(*request.args) for request in requests]

    def _written(self, prompt: str, settings: dict[str, Any]) -> tuple[list[int], list[str], int]:
        plain = normalize_gen_kwargs(settings)
        most = int(plain["max_gen_toks"])
        if most >= self._context:
            raise DataError(f"it writes up to {most} tokens, and the model takes {self._context} with the prompt")
        return self.tok_encode(prompt)[most - self._context :], list(plain["until"]), most


def encode(groups: Sequence[Sequence[Any]], tokenizer: Any, context: int) -> list[SuiteExample]:
    """The requests of each document in token ids. DataError where the model cannot take one."""
    encoder = Encoder(tokenizer, context)
    return [_example(encoder, group) for group in groups]


def _example(encoder: Encoder, group: Sequence[Any]) -> SuiteExample:
    ask = group[0].request_type
    match ask:
        case "loglikelihood":
            pairs = encoder.loglikelihood(group, disable_tqdm=True)
            return SuiteExample(ask=ask, parts=tuple(_shared(pairs)))
        case "loglikelihood_rolling":
            [ids] = encoder.loglikelihood_rolling(group)
            return SuiteExample(ask=ask, parts=((tuple(ids), ()),))
        case _:
            [(prompt, until, most)] = encoder.generate_until(group)
            return SuiteExample(ask=ask, parts=((tuple(prompt), ()),), until=tuple(until), max_new_tokens=most)


def _shared(
    pairs: Sequence[tuple[list[int], list[int]]],
) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    """Neighbours of one prompt together, in order."""
    for prompt, some in groupby(pairs, key=lambda pair: tuple(pair[0])):
        yield prompt, tuple(tuple(answer) for _, answer in some)
