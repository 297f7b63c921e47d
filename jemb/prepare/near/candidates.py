"""Candidates: rows that agree in all hashes of a band, put into buckets, and the buckets into batches for the check.

Before: `minhash.py` gives each row a key for each band. After: `check.py` compares the rows of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from jemb.prepare.engine.table import seed_for
from jemb.prepare.equal import Keys, Numbers, ends, groups
from jemb.prepare.near.check import check_buckets
from jemb.prepare.near.folding import Packed
from jemb.prepare.near.minhash import band_keys, digests, shingle_sets, signatures

if TYPE_CHECKING:
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

MISS = 0.06
"""Greatest chance that a pair exactly at the threshold is no candidate; it falls fast above."""
SIGNED_AT_ONCE = 50_000
"""Rows whose signatures are in memory, 4 * num_perm bytes each."""
BATCH_BYTES = 16 << 20
"""Folded text compared at once: with character shingles its sets take eight times this, and the index half of that. A
bigger bucket is cut into windows that overlap, its rows in order of length: a pair can be missed when neither is in the
overlap, unless rows between connect it."""


class Texts(Protocol):
    """Folded rows, in memory (`Packed`) or in files (`join.Spilled`)."""

    def lengths(self, rows: Numbers) -> Numbers:
        """Bytes of each of these rows."""

    def take(self, rows: Numbers) -> Packed:
        """These rows, in this order."""


def band_rows(threshold: float, num_perm: int) -> int:
    """Hashes in a band: as many as keep the chance of a miss at the threshold below `MISS` (8 for 0.8 and 128).

    A pair of similarity J agrees in a band of r hashes with probability J^r, and there are num_perm // r bands.
    """
    fit = [r for r in range(1, num_perm + 1) if (1 - threshold**r) ** (num_perm // r) <= MISS]
    return max(fit, default=1)


def num_bands(config: NearDuplicatesConfig) -> int:
    """Bands that the hashes make."""
    return config.num_perm // band_rows(config.threshold, config.num_perm)


def keys_of(folded: Packed, config: NearDuplicatesConfig, seed: int) -> Keys:
    """[2 + B, N]: the digests of N rows, and their band keys."""
    rows = band_rows(config.threshold, config.num_perm)
    keys = np.empty((2 + num_bands(config), len(folded)), np.uint64)
    keys[:2] = digests(folded)
    for start in range(0, len(folded), SIGNED_AT_ONCE):
        some = Packed(folded.data, folded.offsets[start : start + SIGNED_AT_ONCE + 1])
        # datasketch seeds numpy's RandomState, which takes 32 bits.
        keys[2:, start : start + len(some)] = band_keys(signatures(some, config, seed_for(seed, "minhash") >> 32), rows)
    return keys


def connect(
    keys: Keys, rows: Numbers, names: Numbers, texts: Texts, config: NearDuplicatesConfig
) -> tuple[Numbers, npt.NDArray[np.float64], dict[str, int]]:
    """What one band connects: ([E, 2] rows at or above the threshold that were not connected, [E] their similarities,
    and how many `candidates`, rows that shared a bucket with one they were not connected to, and pairs `compared`).

    keys: [N], of rows [N], ascending. names[row]: its component so far; -1: is left out.
    """
    left = names[rows] >= 0
    keys, rows = keys[left], rows[left]
    order, starts = groups(keys)
    if len(order):
        own = names[rows[order]]
        mixed = np.minimum.reduceat(own, starts[:-1]) != np.maximum.reduceat(own, starts[:-1])
        sizes = np.diff(starts)
        order, starts = order[np.repeat(mixed, sizes)], ends(sizes[mixed])
    rows = rows[order]
    own = np.asarray(names[rows])
    edges, similar, total = [np.empty((0, 2), np.int64)], [np.empty(0)], 0
    for members, borders in _batches(rows, starts, texts):
        sets = shingle_sets(texts.take(rows[members]), config)
        pairs, scores, compared = check_buckets(sets, borders, own[members], config.threshold)
        edges.append(rows[members][pairs])
        similar.append(scores)
        total += compared
    return np.concatenate(edges), np.concatenate(similar), {"candidates": len(rows), "compared": total}


def _batches(rows: Numbers, starts: Numbers, texts: Texts) -> Iterator[tuple[Numbers, Numbers]]:
    """(positions of rows, borders of buckets among them) of about `BATCH_BYTES` of text, at most twice that."""
    lengths = texts.lengths(rows)
    sizes = np.diff(ends(lengths)[starts])
    for bucket in np.flatnonzero(sizes > BATCH_BYTES):
        for members in _windows(np.arange(starts[bucket], starts[bucket + 1]), lengths):
            yield members, np.array([0, len(members)])
    small = sizes <= BATCH_BYTES
    members = np.flatnonzero(np.repeat(small, np.diff(starts)))
    starts = ends(np.diff(starts)[small])
    batch = ends(sizes[small])[:-1] // BATCH_BYTES
    for number in np.unique(batch):
        first, last = np.searchsorted(batch, [number, number + 1])
        borders = starts[first : last + 1]
        yield members[borders[0] : borders[-1]], borders - borders[0]


def _windows(members: Numbers, lengths: Numbers) -> Iterator[Numbers]:
    """A bucket in parts of about `BATCH_BYTES` in order of length; each has rows in common with the next."""
    members = members[np.argsort(lengths[members], kind="stable")]
    cuts = [0, *(np.flatnonzero(np.diff(np.cumsum(lengths[members]) // BATCH_BYTES)) + 1).tolist(), len(members)]
    for low, high in pairwise(cuts):
        yield members[max(0, low - (high - low) // 4) : high]
