"""Which of a few known texts is nearly the same as a new one: the join that decontamination needs.

The same signatures, bands and exact check as `near_duplicates.py`, between two sets of texts instead of within one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from jemb.prepare.equal import Keys, Numbers
from jemb.prepare.near.candidates import keys_of
from jemb.prepare.near.check import similarities
from jemb.prepare.near.folding import fold, pack
from jemb.prepare.near.minhash import shingle_sets
from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

PAIRS = 1 << 20
"""Pairs compared at once."""
MOST = 256
"""Known texts of one band key a new text is compared with, the first ones. More share a key only where they are of one
template; then a match can be missed unless another band finds it."""


class Index:
    """Known texts, ready to be matched. Arrays alone, so it can be pickled; about 400 bytes a text, and 8 a shingle."""

    def __init__(
        self, texts: Sequence[str], *, shingle: Literal["char", "word"], ngram: int, threshold: float, seed: int,
        num_perm: int = 128,
    ) -> None:  # fmt: skip
        """threshold: Jaccard similarity; (0, 1]. The other options as in `NearDuplicatesConfig`."""
        self._config = NearDuplicatesConfig(threshold=threshold, num_perm=num_perm, shingle=shingle, ngram=ngram)
        self._seed = seed
        folded = fold(pack(texts), self._config.shingle == "word")
        self._sets = shingle_sets(folded, self._config)
        bands = keys_of(folded, self._config, seed)[2:]
        keys = bands.reshape(-1)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._owners = order % max(1, len(folded))
        # Most new texts are none of these: one look in a small table says so for each band.
        self._mask = np.uint64((1 << max(10, (8 * len(keys)).bit_length())) - 1)
        self._known = np.zeros(int(self._mask) + 1, np.bool_)
        self._known[keys & self._mask] = True

    def match(self, texts: Sequence[str]) -> Numbers:
        """[N]: for each text the lowest index of a known one at or above the threshold, or -1.

        Case, white space and punctuation do not matter. A text of equal words is always found; one close to the
        threshold can be missed (6 % at it, 0.1 % at 0.1 above).
        """
        folded = fold(pack(texts), self._config.shingle == "word")
        found = np.full(len(folded), len(self._sets), np.int64)
        bands = keys_of(folded, self._config, self._seed)[2:]
        for pairs in self._candidates(bands):
            rows, inverse = np.unique(pairs[:, 0], return_inverse=True)
            sets = shingle_sets(folded.take(rows), self._config)
            local = np.stack([inverse, pairs[:, 1]], axis=1)
            near = similarities(sets, self._sets, local, self._config.threshold) > 0
            np.minimum.at(found, pairs[near, 0], pairs[near, 1])
        return np.where(found < len(self._sets), found, -1)

    def _candidates(self, bands: Keys) -> Iterator[Numbers]:
        """[P, 2] pairs (new text, known text) that share a band, each once in a batch."""
        rows = np.nonzero(self._known[bands & self._mask])[1]
        keys = bands[self._known[bands & self._mask]]
        low = np.searchsorted(self._keys, keys, "left")
        counts = np.minimum(np.searchsorted(self._keys, keys, "right") - low, MOST)
        batch = (np.cumsum(counts) - counts) // PAIRS
        for number in np.unique(batch[counts > 0]):
            some = np.flatnonzero((batch == number) & (counts > 0))
            many = counts[some]
            within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            known = self._owners[np.repeat(low[some], many) + within]
            yield np.unique(np.stack([np.repeat(rows[some], many), known], axis=1), axis=0)
