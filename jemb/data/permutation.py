"""Keyed hashing and keyed permutations in plain 64-bit integers: the same on every machine, build and library version;
and with them the order of a pass in which samples are shuffled within windows of whole shards (`shuffle_shards`).

No library generator is used: numpy promises a stable stream for one build only (NEP 19). Golden values in the tests pin
these functions, because a changed order would silently repeat and skip samples of runs that are resumed.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jemb.core.seeds import Words, scramble

Rows = NDArray[np.int64]

_MASK = (1 << 64) - 1
_ROUNDS = 6  # chi-square of positions and neighbour differences is visibly bad at 2-3 rounds and fine from 4
_SORTED_UP_TO = 4096


def mix(*parts: int | str) -> int:
    """One 64-bit key of any number of integers (below 2**64) and strings; order matters, ("a", "b") != ("ab",)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else int(part).to_bytes(8, "little")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def shuffled(n: int, key: int) -> NDArray[np.int64]:
    """All of range(n) in the order of keyed hashes; O(n)."""
    return np.argsort(scramble(np.arange(n, dtype=np.uint64) ^ np.uint64(key)), kind="stable").astype(np.int64)


@lru_cache(maxsize=256)
def _table(n: int, key: int) -> NDArray[np.int64]:
    return shuffled(n, key)


def permute(positions: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Where `positions` (each in [0, n)) go under the permutation of range(n) that `key` names.

    O(len(positions)) time and no memory of size n: a generalised Feistel cipher on a*b >= n (Black & Rogaway 2002)
    with cycle walking; a*b exceeds n by less than sqrt(n) + 1, so hardly any position walks. Small n use a table.
    """
    if n <= _SORTED_UP_TO:
        return _table(n, key)[positions]
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    out = _feistel(positions.astype(np.uint64), a, b, key)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _feistel(out[outside], a, b, key)
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def _feistel(x: Words, a: int, b: int, key: int) -> Words:
    left, right = x % np.uint64(a), x // np.uint64(a)
    for turn in range(_ROUNDS):
        modulus = np.uint64(a if turn % 2 == 0 else b)
        round_key = np.uint64((key + turn * 0xD1B54A32D192ED03) & _MASK)
        left, right = right, (left + scramble(right ^ round_key) % modulus) % modulus
    return right * np.uint64(a) + left


class WindowedPass:
    """A permutation of the rows of shards with these `sizes` [S]. The shards come in a new order with each key; so many
    of them in a row are a window, whose samples are shuffled among themselves.

    Time and memory to make: O(S). Rows of positions: O(their number + windows they lie in), times log S.
    """

    def __init__(self, sizes: Rows, num_shards: int, key: int) -> None:
        self.num_shards, self.key = num_shards, key
        self.order = shuffled(len(sizes), mix("shards", key))
        sizes = sizes.astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        self._ends = np.cumsum(sizes[self.order])  # of each shard, in this pass's order
        self._shift = starts[self.order] - (self._ends - sizes[self.order])
        last = np.minimum(np.arange(num_shards, len(sizes) + num_shards, num_shards), len(sizes)) - 1
        self._borders = np.concatenate([np.zeros(1, dtype=np.int64), self._ends[last]])

    def windows(self, start: int, stop: int) -> range:
        """The windows that positions [start, stop) lie in; start < stop."""
        first, last = np.searchsorted(self._borders, [start, stop - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def shards(self, window: int) -> Rows:
        """The shards of a window."""
        return self.order[window * self.num_shards : (window + 1) * self.num_shards]

    def rows(self, start: int, stop: int) -> Rows:
        """The rows at positions [start, stop); start < stop."""
        parts = []
        for window in self.windows(start, stop):
            low, high = self._borders[window : window + 2].tolist()
            inside = np.arange(max(start, low) - low, min(stop, high) - low, dtype=np.int64)
            parts.append(low + permute(inside, high - low, mix("window", self.key, window)))
        places = np.concatenate(parts)
        return places + self._shift[np.searchsorted(self._ends, places, side="right")]
