"""Tags, or points, from a local language model, whose answer can be nothing but the JSON asked for."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clray.endpoint import AnswerError
from clray.errors import ModelError
from clray.instructions.prompt import TAGS, Form

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher

WRITTEN = '{}[]":,' + string.ascii_lowercase
"""Characters without which a vocabulary cannot write the answer."""

LONGEST_TAG, LONGEST_EXPLANATION = 60, 200
"""Characters: a model that repeats itself fills one text, not the whole answer."""


class ModelTags:
    """Asks a causal language model for the tags of instructions, or whatever list the form names. `spec` is a
    ModelTagger as plain values.

    The model is loaded at the first call, from safetensors and without code of its own, to the GPU where there is one.
    """

    def __init__(self, spec: dict[str, Any], form: Form = TAGS) -> None:
        self._spec, self._form = spec, form

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """The tags of each instruction, at most `most`: greedy decoding under a JSON schema, one text at a time.

        So an instruction's tags do not depend on its neighbours. Where `max_new_tokens` end an answer, the tags
        complete by then count, and there may be none. An instruction longer than the model's context is cut at its
        end. Raises ModelError where the model cannot be loaded, its vocabulary cannot write JSON, or its context is
        too short for the question.
        """
        return [self._tags(text) for text in texts]

    @property
    def _place(self) -> str:
        return f"{self._form.who} model '{self._spec['model']}'"

    def _tags(self, text: str) -> list[str]:
        answer = self._answer(self._prompt(text))
        try:
            return self._form.parse(answer)[: self._spec["most"]]
        except AnswerError:
            return self._form.salvage(answer)[: self._spec["most"]]

    def _answer(self, prompt: torch.Tensor) -> str:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        settings = GenerationConfig(
            max_new_tokens=self._spec["max_new_tokens"],
            do_sample=False,
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
        )
        constraint = _Constraint(self._matcher(), prompt.shape[1])
        with torch.inference_mode():
            tokens = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=settings,
                logits_processor=LogitsProcessorList([constraint]),
            )
        answer = [token for token in tokens[0, prompt.shape[1] :].tolist() if token not in self._ends]
        return str(self._vocabulary.decode_bytes(answer).decode("utf-8", errors="ignore"))

    def _prompt(self, text: str) -> torch.Tensor:
        """The question as token ids of shape (1, length), its instruction cut so that the answer has room."""
        import torch

        room = getattr(self._model.config, "max_position_embeddings", None)
        ids = self._asked(text)
        while room and (over := len(ids) + self._spec["max_new_tokens"] - room) > 0:
            kept = self._tokenizer.encode(text, add_special_tokens=False)[:-over]
            if not kept:
                raise ModelError(
                    f"{self._place} has a context of {room} tokens: too short for the question "
                    f"and an answer of {self._spec['max_new_tokens']}; lower max_new_tokens, or use a model with more"
                )
            text = self._tokenizer.decode(kept)
            ids = self._asked(text)
        return torch.tensor([ids], device=self._model.device)

    def _asked(self, text: str) -> list[int]:
        """Token ids of the question: as a chat where the tokenizer has a template, else as plain text."""
        message = self._form.question(text, self._spec["most"])
        if self._tokenizer.chat_template is None:
            return list(self._tokenizer(message + "\n")["input_ids"])
        chat = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            add_generation_prompt=True,
            return_dict=True,
            enable_thinking=False,  # for templates that know it: the answer begins at once
        )
        return list(chat["input_ids"])

    def _matcher(self) -> LLMatcher:
        from llguidance import LLMatcher

        form = self._form.schema(self._spec["most"])
        form["properties"][self._form.name]["minItems"] = 1  # small models are quick to give none
        texts = form["properties"][self._form.name]["items"]["properties"]
        texts.update({name: {"type": "string", "maxLength": LONGEST_EXPLANATION} for name in self._form.fields})
        texts[self._form.fields[0]] = {"type": "string", "minLength": 1, "maxLength": LONGEST_TAG}
        form["x-guidance"] = {"whitespace_flexible": False}  # else a model may go on with spaces for ever
        return LLMatcher(self._vocabulary, LLMatcher.grammar_from_json_schema(form), log_level=0)

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        model = self._loaded(AutoModelForCausalLM, use_safetensors=True, dtype="auto")
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._loaded(AutoTokenizer)

    def _loaded(self, kind: Any, **options: Any) -> Any:
        from transformers.utils import logging

        logging.disable_progress_bar()
        name, revision = self._spec["model"], self._spec.get("revision")
        try:
            return kind.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
        except Exception as error:
            raise ModelError(
                f"{self._place} cannot be loaded: {error}. It must be a folder or Hugging Face id of a causal "
                "language model with *.safetensors weights and no code of its own"
            ) from error

    @cached_property
    def _ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self._model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        if ends is None:
            raise ModelError(
                f"{self._place} has no eos_token, so no answer could end; name one in its generation_config.json"
            )
        return list(ends) if isinstance(ends, list) else [ends]

    @cached_property
    def _vocabulary(self) -> Any:
        """The tokenizer as llguidance reads it: the bytes of each token."""
        from llguidance.hf import from_tokenizer

        size = max(self._model.config.get_text_config().vocab_size, len(self._tokenizer))
        try:
            vocabulary = from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._ends)
        except ValueError as error:
            raise ModelError(
                f"{self._place}: its tokenizer cannot be constrained ({error}); use a model with a tokenizer.json"
            ) from error
        missing = [
            sign for sign in WRITTEN if vocabulary.decode_bytes(vocabulary.greedy_tokenize(sign)) != sign.encode()
        ]
        if missing:
            raise ModelError(
                f"{self._place} cannot write JSON: its vocabulary lacks {' '.join(missing)}; "
                "use a model whose tokenizer has all bytes"
            )
        return vocabulary


class _Constraint:
    """A logits processor that leaves the tokens with which the answer can go on.

    llguidance has one for PyTorch too, which compiles itself on first use.
    """

    def __init__(self, matcher: LLMatcher, prompt: int) -> None:
        self._matcher, self._read = matcher, prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` of shape (1, vocabulary), minus infinity where a token would break the schema."""
        import numpy as np
        import torch

        accepted = self._matcher.consume_tokens(ids[0, self._read :].tolist())
        assert accepted, self._matcher.get_error()
        self._read = ids.shape[1]
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: scores.shape[1]].astype(bool)).to(scores.device)
        return scores.masked_fill(~allowed, float("-inf"))
