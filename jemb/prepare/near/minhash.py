"""MinHash signatures, equal bit for bit to datasketch's, and sets of shingles, made from packed bytes.

Before: `folding.py`. After: `near/check.py` compares rows whose band keys agree. A row's parts stand apart by NUL, and
the shingles of part k get k NULs in front, so that one set holds them all and no part's shingles pass for another's.
The signatures are those of `datasketch.MinHash(num_perm, seed=seed, hashfunc=lambda b: xxhash.xxh32(b).intdigest())`
(scheme affine32, the default since datasketch 2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from jemb.prepare.equal import Keys, Numbers
from jemb.prepare.near.folding import Packed
from jemb.prepare.near.kernel import inlined, kernel

if TYPE_CHECKING:
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Sets:
    """The shingles of N rows as 64-bit hashes. Row i has the parts rows[i] to rows[i + 1]; part j is the set
    values[parts[j]:parts[j + 1]], ascending, each value once."""

    values: Keys
    parts: Numbers
    rows: Numbers

    def __len__(self) -> int:
        return len(self.rows) - 1


def signatures(folded: Packed, config: NearDuplicatesConfig, seed: int) -> Signatures:
    """[N, num_perm]. seed: datasketch's, [0, 2^32). A row shorter than a shingle is one; so is an empty row."""
    factors, terms = _permutations(config.num_perm, seed)
    out = np.empty((len(folded), config.num_perm), np.uint32)
    _sign(folded.data, folded.offsets, config.shingle == "word", config.ngram, factors, terms, out)
    return out


def shingle_sets(folded: Packed, config: NearDuplicatesConfig) -> Sets:
    """The sets whose Jaccard similarity decides."""
    num_parts = len(folded) + int(np.count_nonzero(folded.data == 0))
    values = np.empty(len(folded.data) + num_parts, np.uint64)
    parts = np.zeros(num_parts + 1, np.int64)
    rows = np.zeros(len(folded) + 1, np.int64)
    _sets(folded.data, folded.offsets, config.shingle == "word", config.ngram, values, parts, rows)
    return Sets(values[: parts[-1]], parts, rows)


def band_keys(signed: Signatures, rows: int) -> Keys:
    """[bands, N]: one number for the `rows` hashes of a row in a band; different bands have different ones."""
    keys = np.empty((signed.shape[1] // rows, len(signed)), np.uint64)
    factors = np.random.default_rng(0).integers(0, 1 << 63, rows, np.uint64) * np.uint64(2) + np.uint64(1)
    _band_keys(signed, rows, factors, keys)
    return keys


def digests(folded: Packed) -> Keys:
    """[2, N]: 128 bits of each row's bytes."""
    keys = np.empty((2, len(folded)), np.uint64)
    _digests(folded.data, folded.offsets, keys)
    return keys


@lru_cache(maxsize=4)
def _permutations(num_perm: int, seed: int) -> tuple[Signatures, Signatures]:
    factors, terms = MinHash(num_perm=num_perm, seed=seed, scheme="affine32").permutations
    return np.array(factors, np.uint32), np.array(terms, np.uint32)


P1, P2, P3, P4, P5 = map(np.uint32, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1))
K1, K2 = map(np.uint64, (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93))


@inlined
def _load32(data, at):  # type: ignore[no-untyped-def]
    """Four bytes, little-endian. The compiler makes one instruction of it."""
    # Unsigned places: numba looks at a signed one for whether it counts from the end.
    p, one = np.uint64(at), np.uint64(1)
    low = np.uint32(data[p]) | np.uint32(data[p + one]) << np.uint32(8)
    p += one + one
    return np.uint32(low | np.uint32(data[p]) << np.uint32(16) | np.uint32(data[p + one]) << np.uint32(24))


@inlined
def _load64(data, at):  # type: ignore[no-untyped-def]
    return np.uint64(_load32(data, at)) | np.uint64(_load32(data, at + 4)) << np.uint64(32)


@inlined
def _rotated(value, bits):  # type: ignore[no-untyped-def]
    return np.uint32(value << np.uint32(bits)) | np.uint32(value >> np.uint32(32 - bits))


@inlined
def _xxh32(data, at, size):  # type: ignore[no-untyped-def]
    """xxHash, 32 bits, seed 0."""
    end = at + size
    if size >= 16:
        a = np.uint32(P1 + P2)
        b = P2
        c = np.uint32(0)
        d = np.uint32(np.uint32(0) - P1)
        while at + 16 <= end:
            a = np.uint32(_rotated(np.uint32(a + np.uint32(_load32(data, at) * P2)), 13) * P1)
            b = np.uint32(_rotated(np.uint32(b + np.uint32(_load32(data, at + 4) * P2)), 13) * P1)
            c = np.uint32(_rotated(np.uint32(c + np.uint32(_load32(data, at + 8) * P2)), 13) * P1)
            d = np.uint32(_rotated(np.uint32(d + np.uint32(_load32(data, at + 12) * P2)), 13) * P1)
            at += 16
        h = np.uint32(_rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18))
    else:
        h = P5
    h = np.uint32(h + np.uint32(size))
    while at + 4 <= end:
        h = np.uint32(_rotated(np.uint32(h + np.uint32(_load32(data, at) * P3)), 17) * P4)
        at += 4
    while at < end:
        h = np.uint32(_rotated(np.uint32(h + np.uint32(np.uint32(data[at]) * P5)), 11) * P1)
        at += 1
    h = np.uint32((h ^ (h >> np.uint32(15))) * P2)
    h = np.uint32((h ^ (h >> np.uint32(13))) * P3)
    return np.uint32(h ^ (h >> np.uint32(16)))


@inlined
def _fmix32(h):  # type: ignore[no-untyped-def]
    """datasketch's mixing before the permutations (MurmurHash3's)."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@inlined
def _mixed(h, word):  # type: ignore[no-untyped-def]
    h = (h ^ word) * K1
    return (h ^ (h >> np.uint64(29))) * K2


@inlined
def _hash64(data, at, size, seed):  # type: ignore[no-untyped-def]
    """64 bits of a run of bytes, well mixed in all of them."""
    h = _mixed(seed, np.uint64(size))
    end = at + size
    while at + 8 <= end:
        h = _mixed(h, _load64(data, at))
        at += 8
    word = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        word |= np.uint64(data[at]) << shift
        shift += np.uint64(8)
        at += 1
    h = _mixed(h, word)
    return h ^ (h >> np.uint64(32))


@kernel
def _shingles(data, at, end, word, n, starts, sizes):  # type: ignore[no-untyped-def]
    """First byte and size of each run of n words or letters of a part, or of the part when it is shorter; how many."""
    units = 0
    if word:
        starts[0] = at
        units = 1
        for place in range(at, end):
            starts[units] = place + 1
            units += data[place] == 32
        starts[units] = end + 1
    else:
        for place in range(at, end):
            starts[units] = place
            units += (data[place] & 0xC0) != 0x80
        starts[units] = end
    if units < n:
        starts[0] = at
        sizes[0] = end - at
        return 1
    for unit in range(units - n + 1):
        sizes[unit] = starts[unit + n] - starts[unit] - word
    return units - n + 1


@kernel
def _part_end(data, at, end):  # type: ignore[no-untyped-def]
    while at < end and data[at] != 0:
        at += 1
    return at


@kernel
def _longest(offsets):  # type: ignore[no-untyped-def]
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@kernel
def _sign(data, offsets, word, n, factors, terms, out):  # type: ignore[no-untyped-def]
    longest = _longest(offsets)
    starts = np.empty(longest + 3, np.int64)
    sizes = np.empty(longest + 3, np.int64)
    hashes = np.empty(longest + 8, np.uint32)
    text = np.empty(longest + 8, np.uint8)
    for row in range(len(offsets) - 1):
        end = offsets[row + 1] - offsets[row]
        parts = 1
        for place in range(end):
            text[place] = data[offsets[row] + place]
            parts += text[place] == 0
        count = 0
        at = np.int64(0)  # not a literal, for which numba would compile the callees anew
        for part in range(parts):
            stop = _part_end(text, at, end) if part < parts - 1 else end
            for shingle in range(_shingles(text, at, stop, word, n, starts, sizes)):
                first = starts[shingle] - part
                # What lies before a shingle was hashed already: there is room for its mark.
                for place in range(first, first + part):
                    text[place] = 0
                hashes[count] = _fmix32(_xxh32(text, first, sizes[shingle] + part))
                count += 1
            at = stop + 1
        while count % 4:  # a hash that comes twice changes no minimum
            hashes[count] = hashes[0]
            count += 1
        signed = out[row]
        signed[:] = 0xFFFFFFFF
        for place in range(0, count, 4):
            h0, h1, h2, h3 = hashes[place], hashes[place + 1], hashes[place + 2], hashes[place + 3]
            for k in range(len(factors)):
                one = min(np.uint32(h0 * factors[k] + terms[k]), np.uint32(h1 * factors[k] + terms[k]))
                two = min(np.uint32(h2 * factors[k] + terms[k]), np.uint32(h3 * factors[k] + terms[k]))
                signed[k] = min(signed[k], min(one, two))


@kernel
def _sets(data, offsets, word, n, values, parts, rows):  # type: ignore[no-untyped-def]
    longest = _longest(offsets)
    starts = np.empty(longest + 3, np.int64)
    sizes = np.empty(longest + 3, np.int64)
    found = np.empty(longest + 3, np.uint64)
    places = np.empty(longest + 3, np.int64)
    count = 0
    total = 0
    for row in range(len(offsets) - 1):
        part = 0
        at = offsets[row]
        while True:
            stop = _part_end(data, at, offsets[row + 1])
            size = _shingles(data, at, stop, word, n, starts, sizes)
            for shingle in range(size):
                found[shingle] = _hash64(data, starts[shingle], sizes[shingle], np.uint64(part))
            total += _sorted_once(found, size, places, values[total:])
            count += 1
            parts[count] = total
            if stop == offsets[row + 1]:
                break
            at = stop + 1
            part += 1
        rows[row + 1] = count


@kernel
def _sorted_once(found, size, places, out):  # type: ignore[no-untyped-def]
    """Sort hashes into `out`, each once; how many. They are even over 64 bits, so that a place for each by its leading
    bits is nearly right, and insertion does the rest."""
    places[: size + 1] = 0
    for i in range(size):
        places[((found[i] >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)) + 1] += 1
    for i in range(size):
        places[i + 1] += places[i]
    for i in range(size):
        slot = np.int64((found[i] >> np.uint64(32)) * np.uint64(size) >> np.uint64(32))
        out[places[slot]] = found[i]
        places[slot] += 1
    kept = 0
    for i in range(size):
        value = out[i]
        j = kept
        while j > 0 and out[j - 1] > value:
            j -= 1
        if j > 0 and out[j - 1] == value:
            continue
        for k in range(kept, j, -1):
            out[k] = out[k - 1]
        out[j] = value
        kept += 1
    return kept


@kernel
def _band_keys(signed, band, factors, keys):  # type: ignore[no-untyped-def]
    for row in range(len(signed)):
        for number in range(len(keys)):
            total = np.uint64(0)
            for k in range(band):
                total += np.uint64(signed[row, number * band + k]) * factors[k]
            h = _mixed(np.uint64(number + 1) * K2, total)
            keys[number, row] = h ^ (h >> np.uint64(32))


@kernel
def _digests(data, offsets, keys):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        for half in range(2):
            seed = np.uint64(half + 1) * K1
            keys[half, row] = _hash64(data, offsets[row], offsets[row + 1] - offsets[row], seed)
