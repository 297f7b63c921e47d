"""Candidates: rows that agree in all hashes of a band, put into buckets, and the buckets into batches for the check.

Before: `minhash.py` gives each row a key for each band. After: `near/check.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jemb.prepare.engine.order import number as seed_for
from jemb.prepare.near import check as near_check
from jemb.prepare.near.folding import Numbers, Packed, ends
from jemb.prepare.near.kernel import kernel
from jemb.prepare.near.minhash import Keys, Sets, band_keys, digests, shingle_sets, signatures

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
BINS = 20


class Texts(Protocol):
    """Folded rows, in memory (`Packed`) or in files (`near_spill.Spills`)."""

    def lengths(self, rows: Numbers) -> Numbers:
        """Bytes of each of these rows."""

    def take(self, rows: Numbers) -> Packed:
        """These rows, in this order."""


@dataclass(slots=True)
class Found:
    """edges: [E, 2] rows at or above the threshold, not connected before. candidates: rows that shared a bucket with
    one they were not connected to. compared: pairs. similarities: [BINS] of the edges, over 0.5 to 1 (those below in
    the first)."""

    edges: Numbers = field(default_factory=lambda: np.empty((0, 2), np.int64))
    candidates: int = 0
    compared: int = 0
    similarities: Numbers = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def statistics(self) -> dict[str, Any]:
        """What adds up over tasks."""
        histogram = {"from": 0.5, "to": 1.0, "counts": self.similarities.tolist()}
        return {"candidates": self.candidates, "compared": self.compared, "similarity": histogram}


def band_rows(threshold: float, num_perm: int) -> int:
    """Hashes in a band: as many as keep the chance of a miss at the threshold below `MISS` (8 for 0.8 and 128).

    A pair of similarity J agrees in a band of r hashes with probability J^r, and there are num_perm // r bands.
    """
    fit = [r for r in range(1, num_perm + 1) if (1 - threshold**r) ** (num_perm // r) <= MISS]
    return max(fit, default=1)


def keys_of(folded: Packed, config: NearDuplicatesConfig, seed: int) -> tuple[Keys, Keys]:
    """(digests [2, N], band keys [B, N])."""
    rows = band_rows(config.threshold, config.num_perm)
    bands = np.empty((config.num_perm // rows, len(folded)), np.uint64)
    for start in range(0, len(folded), SIGNED_AT_ONCE):
        some = Packed(folded.data, folded.offsets[start : start + SIGNED_AT_ONCE + 1])
        # datasketch seeds numpy's RandomState, which takes 32 bits.
        signed = signatures(some, config, seed_for(seed, "minhash") >> 32)
        bands[:, start : start + len(some)] = band_keys(signed, rows)
    return digests(folded), bands


def connect(keys: Keys, rows: Numbers, names: Numbers, texts: Texts, config: NearDuplicatesConfig) -> Found:
    """What one band connects. keys: [N], of rows [N], ascending. names[row]: its component so far; -1: is left out."""
    again = np.flatnonzero(repeated(keys))
    again = again[names[rows[again]] >= 0]
    keys, rows = keys[again], rows[again]
    own = np.asarray(names[rows])
    order, starts = buckets(keys, own)
    rows, own = rows[order], own[order]
    found = Found(candidates=len(rows))
    edges = [found.edges]
    for members, borders in _batches(rows, starts, texts):
        sets = shingle_sets(texts.take(rows[members]), config)
        pairs, similar, compared = check_buckets(sets, borders, own[members], config.threshold)
        edges.append(rows[members][pairs])
        found.compared += compared
        found.similarities += np.histogram(similar.clip(0.5, 1), BINS, (0.5, 1))[0]
    found.edges = np.concatenate(edges)
    return found


def repeated(keys: Keys) -> np.ndarray:
    """[N] bool: False only for keys that occur once. Spares sorting most of them."""
    seen = np.zeros(1 << max(10, (4 * len(keys)).bit_length()), np.uint8)
    out = np.empty(len(keys), np.bool_)
    _repeated(keys, np.uint64(len(seen) - 1), seen, out)
    return out


def buckets(keys: Keys, names: Numbers) -> tuple[Numbers, Numbers]:
    """(order [M], starts [B + 1]): positions of rows with equal keys, bucket after bucket, ascending in each. Buckets
    of one row or one name are left out."""
    if not len(keys):
        return np.empty(0, np.int64), np.zeros(1, np.int64)
    # One sort of plain numbers: leading bits of the key, then the position. Where two keys agree in those bits by
    # chance their buckets become one, which the check sorts out.
    bits = np.uint64(max(1, (len(keys) - 1).bit_length()))
    packed = keys << bits | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    packed >>= bits
    starts = np.flatnonzero(np.concatenate([[True], packed[1:] != packed[:-1]]))
    named = names[order]
    mixed = np.minimum.reduceat(named, starts) != np.maximum.reduceat(named, starts)
    sizes = np.diff(np.append(starts, len(order)))
    order = order[np.repeat(mixed, sizes)]
    return order, np.concatenate([[0], np.cumsum(sizes[mixed])])


def equal_rows(digests: Keys, rows: Numbers) -> Numbers:
    """[E, 2]: (row, lowest row of the same digest) of every row that is not the first of its kind. digests: [2, N]."""
    again = np.flatnonzero(repeated(digests[0]))
    rows, high, low = rows[again], digests[0, again], digests[1, again]
    order = np.lexsort((rows, low, high))
    rows, high, low = rows[order], high[order], low[order]
    first = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])[: len(rows)]
    firsts = rows[first][np.cumsum(first) - 1]
    return np.stack([rows, firsts], axis=1)[~first]


def check_buckets(sets: Sets, starts: Numbers, names: Numbers, threshold: float) -> tuple[Numbers, np.ndarray, int]:
    """Pairs that connect rows of the same bucket: ([E, 2] positions, [E] similarities, comparisons made).

    Bucket b is the rows starts[b] to starts[b + 1] of `sets`. names: rows of the same name are connected already. Only
    pairs that connect what was not connected yet are returned, so E < rows.
    """
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    parents = first[inverse].astype(np.int64)
    edges = np.empty((len(names), 2), np.int64)
    similar = np.empty(len(names))
    data = (sets.values, sets.parts, sets.rows)
    found, compared = near_check.check_small(*data, starts, parents, threshold, edges, similar)
    seen = np.zeros(len(names), np.int64)
    for mark, bucket in enumerate(np.flatnonzero(np.diff(starts) > near_check.SMALL), 1):
        low, high = starts[bucket], starts[bucket + 1]
        more, looks = near_check.check_big(
            *data, low, high, parents, seen, mark, threshold, edges[found:], similar[found:]
        )  # fmt: skip
        found, compared = found + more, compared + looks
    return edges[:found], similar[:found], compared


def similarities(one: Sets, other: Sets, pairs: Numbers, threshold: float) -> np.ndarray:
    """Of each pair (row of `one`, row of `other`) the similarity of the least similar part, 0 where it is below the
    threshold."""
    out = np.empty(len(pairs))
    data = (one.values, one.parts, one.rows, other.values, other.parts, other.rows)
    near_check.similarities(*data, pairs, threshold, out)
    return out


def merge(names: Numbers, edges: Numbers) -> None:
    """Join components, in place: names[row] is the lowest row of its component, before and after. -1: no row."""
    near_check.merge(names, np.ascontiguousarray(edges))


def _batches(rows: Numbers, starts: Numbers, texts: Texts) -> Iterator[tuple[Numbers, Numbers]]:
    """(positions of rows, borders of buckets among them) of about `BATCH_BYTES` of text, at most twice that."""
    lengths = texts.lengths(rows)
    sizes = np.diff(ends(lengths)[starts])
    for bucket in np.flatnonzero(sizes > BATCH_BYTES):
        for members in _windows(starts[bucket] + np.arange(starts[bucket + 1] - starts[bucket]), lengths):
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


@kernel
def _repeated(keys, mask, seen, out):  # type: ignore[no-untyped-def]
    for place in range(len(keys)):
        slot = np.int64(keys[place] & mask)
        seen[slot] += seen[slot] < 2
    for place in range(len(keys)):
        out[place] = seen[np.int64(keys[place] & mask)] > 1
