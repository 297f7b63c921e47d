"""Encoding by all ranks for rank 0, on real gloo processes: the vectors of one process, and equal work for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jemb.distributed.share as module
from jemb.core.errors import InputError
from jemb.distributed import rank, shared_encoding
from tests.helpers.ranks import joined, on_ranks

WIDTH = 3
MANY = [f"text {number} " + "long " * (number * 7 % 23) for number in range(41)]
CASES: dict[str, list[str]] = {
    "many": MANY,
    "twice": MANY + MANY[:5] + MANY[3:4],
    "even": MANY[:12],
    "one": ["alone"],
    "one twice": ["alone", "alone"],
    "none": [],
}


def vectors_of(texts: Sequence[str], key: int = 0) -> np.ndarray:
    """Made of the text and the key alone; nothing else gives them."""
    rows = [[len(text), key, sum(map(ord, text))] for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), WIDTH)


class Watched:
    """An encoder that notes what it was asked."""

    prompts = "what stands before a text"

    def __init__(self, key: int, seen: list[Any]) -> None:
        self.key, self.seen = key, seen

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.seen.append((self.key, list(texts)))
        return vectors_of(texts, self.key)


def encode_cases() -> dict[str, Any]:
    module.SHARE = 5  # so that 41 texts are several blocks
    seen: list[Any] = []
    made: list[int] = []
    found: dict[str, Any] = {"vectors": {}, "calls": {}}

    def make(key: int) -> Watched:
        made.append(key)
        return Watched(key, seen)

    with shared_encoding(make) as shared:
        assert (shared is None) == (rank() > 0)
        if shared:
            for key in (1, 2):
                encode = shared(key)
                found["prompts"] = getattr(encode, "prompts", None)
                for name, texts in CASES.items():
                    found["vectors"][name, key] = encode(texts)
    return {**found, "calls": seen, "made": made}


@pytest.mark.parametrize("size", [2, 3])
def test_vectors_are_those_of_one_process(tmp_path: Path, size: int) -> None:
    ranks = on_ranks(tmp_path, size, joined, encode_cases)
    for name, texts in CASES.items():
        for key in (1, 2):
            found = ranks[0]["vectors"][name, key]
            assert found.dtype == np.float32
            assert np.array_equal(found, vectors_of(texts, key)), name
    assert all(not seen["vectors"] for seen in ranks[1:]), "rank 0 alone has them"
    assert ranks[0]["prompts"] == Watched.prompts, "what tasks put before a text is the encoder's own"
    assert all(seen["made"] == [1, 2] for seen in ranks), "a model is loaded once"


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_get_equally_many_texts_of_like_length(tmp_path: Path, size: int) -> None:
    calls = [[call for call in seen["calls"] if call[1]] for seen in on_ranks(tmp_path, size, joined, encode_cases)]
    for together in zip(*calls, strict=True):
        counts = {len(texts) for _, texts in together}
        assert len(counts) == 1
        assert counts.pop() in range(1, 6)
    asked = [text for _, texts in calls[0][: -(-len(MANY) // (5 * size))] for text in texts]
    assert len(asked) <= -(-len(MANY) // size) + 1, "each encodes its share, not everything"
    amounts = [sum(len(text) for key, texts in rank_calls for text in texts) for rank_calls in calls]
    assert max(amounts) < 1.1 * min(amounts)


def fail_in_the_block() -> str:
    try:
        with shared_encoding(lambda key: vectors_of) as shared:
            if shared:
                shared(None)(MANY)
                raise InputError(f"no such metric, says rank {rank()}")
    except InputError as error:
        return str(error)
    return "nothing was raised"


def test_what_rank_0_raises_is_raised_everywhere(tmp_path: Path) -> None:
    assert on_ranks(tmp_path, 3, joined, fail_in_the_block) == ["no such metric, says rank 0"] * 3


def test_a_process_alone_uses_its_own_encoder() -> None:
    make: Callable[[int], Watched] = lambda key: Watched(key, [])  # noqa: E731
    with shared_encoding(make) as shared:
        assert shared is make
