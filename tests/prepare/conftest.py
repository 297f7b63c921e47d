"""Makers of rows and files, and an auxiliary encoder of a few lines, for the tests of prepare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jemb.records import Sample


def bag_of_words(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors [N, 64]: each word adds 1 at its hash; a text without words points along the first axis."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split() or [""]:
            vectors[row, hashlib.sha1(word.encode()).digest()[0] % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def encode() -> Callable[[Sequence[str]], Any]:
    return bag_of_words


@pytest.fixture
def rows() -> Callable[..., list[Sample]]:
    """rows(("q", "p"), ("q", "p", "n1", "n2"), …): samples with keys 000000000, 000000001, …"""

    def make(*texts: tuple[str, ...]) -> list[Sample]:
        return [Sample(f"{number:09d}", text[0], text[1], tuple(text[2:])) for number, text in enumerate(texts)]

    return make


@pytest.fixture
def write_jsonl() -> Callable[..., Path]:
    def write(path: Path, records: Sequence[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return path

    return write
