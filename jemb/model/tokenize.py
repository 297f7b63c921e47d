"""Texts to token ids, as the collator and `encode` need them: a picklable callable, apart from the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jemb.errors import InputError
from jemb.records import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = NDArray[np.int64]


class Tokenize:
    """Cuts texts at `max_length` tokens, special ones included; pads them to the longest, on the right.

    Works on its own copy of the fast tokenizer: it neither changes nor sees changes of the one it was made
    from, and it can be sent to loader processes. Raises `InputError` for a tokenizer without a fast
    implementation or without a padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise InputError(f"the tokenizer {type(tokenizer).__name__} has no fast implementation (no tokenizer.json)")
        if tokenizer.pad_token_id is None:
            raise InputError(f"the tokenizer {type(tokenizer).__name__} has no padding token")
        self.max_length = max_length
        self.pad_id = int(tokenizer.pad_token_id)
        # The Rust tokenizer itself: transformers' call around it costs as much again for short texts.
        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    @property
    def fingerprint(self) -> str:
        """Of everything that the ids of a text depend on."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """N texts -> `Tokens` [N, L], 1 <= L <= max_length; a text without any token is a row of padding."""
        return Tokens.padded(*self.flat(texts), self.pad_id)

    def flat(self, texts: Sequence[str]) -> tuple[Numbers, Numbers]:
        """N texts -> (their ids one after the other, how many each has [N])."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum())), lengths
