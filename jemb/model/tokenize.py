"""Texts to token ids, as the collator and `encode` need them: a picklable callable, apart from the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jemb.core.errors import InputError
from jemb.core.records import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = NDArray[np.int64]


class Tokenize:
    """Cuts texts at `max_length` tokens, special ones included, on the side that the tokenizer cuts; pads them to the
    longest, on the right.

    Works on its own copy of the fast tokenizer: it neither changes nor sees changes of the one it was made from, and it
    can be sent to loader processes. tokenizer: of transformers, or one of tokenizers as static embeddings have it,
    which puts no special tokens in. max_length: None cuts nothing but what the tokenizer itself cuts.
    prompt_lengths: for each prompt the tokens that pooling leaves out of a text that begins with it; empty: pooling
    takes all tokens. Raises `InputError` for a tokenizer without a fast implementation or without a padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Tokenizer, max_length: int | None) -> None:
        self.special = not isinstance(tokenizer, Tokenizer)
        self.max_length = max_length
        self.pad_id = 0
        self.prompt_lengths: Mapping[str, int] = {}
        backend = tokenizer
        if not isinstance(tokenizer, Tokenizer):
            name = type(tokenizer).__name__
            if not tokenizer.is_fast:
                raise InputError(f"the tokenizer {name} has no fast implementation (no tokenizer.json)")
            if tokenizer.pad_token_id is None:
                raise InputError(f"the tokenizer {name} has no padding token")
            self.pad_id = int(tokenizer.pad_token_id)
            backend = tokenizer.backend_tokenizer
        # The Rust tokenizer itself: transformers' call around it costs as much again for short texts.
        self._tokenizer: Tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._split = bool(getattr(tokenizer, "split_special_tokens", False))
        self._tokenizer.encode_special_tokens = self._split
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length, direction=side_cut(tokenizer))

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = self._split  # which pickling forgets

    @property
    def fingerprint(self) -> str:
        """Of everything that the ids of a text depend on."""
        more = [] if self.special else ["no special tokens"]
        more += ["special tokens are split"] if self._split else []
        return hashlib.sha256("".join([self._tokenizer.to_str(), *more]).encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """N texts -> `Tokens` [N, L], 1 <= L <= max_length; a text without any token is a row of padding."""
        tokens = Tokens.padded(*self.flat(texts), self.pad_id)
        if not self.prompt_lengths:
            return tokens
        return tokens.without_prompt([self._prompt_length(text) for text in texts])

    def _prompt_length(self, text: str) -> int:
        found = [prompt for prompt in self.prompt_lengths if text.startswith(prompt)]
        return self.prompt_lengths[max(found, key=len)] if found else 0

    def flat(self, texts: Sequence[str]) -> tuple[Numbers, Numbers]:
        """N texts -> (their ids one after the other, how many each has [N])."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=self.special)
        rows = [encoding.ids for encoding in encoded]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum())), lengths


def side_cut(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> str:
    """Where the tokenizer cuts texts that are too long: "left" or "right"."""
    if isinstance(tokenizer, Tokenizer):
        return str(tokenizer.truncation["direction"]) if tokenizer.truncation else "right"
    return tokenizer.truncation_side
