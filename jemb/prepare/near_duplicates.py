"""Second stage: of rows that are nearly the same text, keep one (arXiv 2402.17016 adds it to the paper's filters).

Before: `exact.py`. After: `language.py`. MinHash signatures (datasketch) name the candidates, the exact Jaccard
similarity of the shingle sets decides, and each connected group keeps its lowest key. The default, 16 bands of 8 with
the exact check, found 0.998 of the true pairs at J >= 0.8 in 200,000 texts and removed no others, where the 9 bands of
13 that datasketch computes for that threshold found 0.856. Memory: 4 * num_perm bytes and one folded text a row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from jemb.config import DuplicateSide, NearDuplicatesConfig
from jemb.prepare.order import number
from jemb.prepare.stage import Drop, Mapper, Outcome, by_key, chunked, in_process
from jemb.records import Sample

CHUNK = 1024
"""Texts handed to a worker at once."""
MISS = 0.06
"""Greatest chance that a pair exactly at the threshold is no candidate; it falls fast above."""
WORD = re.compile(r"\w+")

Signatures = npt.NDArray[np.uint32]


def keep_representatives(
    rows: Sequence[Sample], config: NearDuplicatesConfig, seed: int, mapper: Mapper = in_process
) -> Outcome:
    """Keep the lowest key of each group of rows connected by Jaccard >= threshold. Reason: `near_duplicate`.

    Order, case and white space of rows do not matter, nor does punctuation. The result can miss a pair close to the
    threshold (never one of equal words), and `seed` then decides which.
    """
    rows = sorted(rows, key=by_key)
    folded = [fold(row, config.side) for row in rows]
    texts = list(dict.fromkeys(folded))
    sign = partial(signatures, config=config, seed=seed)
    signed = np.concatenate([np.empty((0, config.num_perm), np.uint32), *mapper(sign, chunked(texts, CHUNK))])
    groups = _connect(texts, signed, config)
    first: dict[int, str] = {}
    outcome = Outcome()
    position = {text: index for index, text in enumerate(texts)}
    for row, text in zip(rows, folded, strict=True):
        group = groups.find(position[text])
        if group in first:
            outcome.dropped.append(Drop(row, "near_duplicate", f"of {first[group]}"))
        else:
            first[group] = row.key
            outcome.kept.append(row)
    return outcome


def fold(row: Sample, side: DuplicateSide) -> str:
    """The words that are compared: lower case, one space between, no punctuation; the parts of a row split by NUL.

    `both` has a part for the query and one for the positive, `joined` one for the two together; a triplet adds its
    negatives as a part, since the same texts in other roles teach something else.
    """
    if side in ("query", "positive"):
        return _words(str(getattr(row, side)))
    parts = [row.query, row.positive] if side == "both" else [f"{row.query} {row.positive}"]
    if row.negatives:
        parts.append(" ".join(row.negatives))
    return "\0".join(map(_words, parts))


def _words(text: str) -> str:
    # A text of punctuation alone is compared as it is, or all of them would be equal.
    return " ".join(WORD.findall(text.lower())) or " ".join(text.replace("\0", " ").split())


def shingles(folded: str, config: NearDuplicatesConfig) -> list[frozenset[str]]:
    """For each part of the row all runs of `ngram` characters or words; the part itself when it is shorter."""
    return [frozenset(_runs(part, config)) for part in folded.split("\0")]


def _runs(text: str, config: NearDuplicatesConfig) -> list[str]:
    n = config.ngram
    if config.shingle == "word":
        words = text.split()
        return [" ".join(words[start : start + n]) for start in range(max(1, len(words) - n + 1))]
    return [text[start : start + n] for start in range(max(1, len(text) - n + 1))]


def similarity(one: Sequence[frozenset[str]], other: Sequence[frozenset[str]]) -> float:
    """Jaccard similarity of the least similar part; 0 for rows of other parts."""
    if len(one) != len(other):
        return 0.0
    return min(jaccard(a, b) for a, b in zip(one, other, strict=True))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b| of two sets that are not both empty."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def signatures(folded: Sequence[str], config: NearDuplicatesConfig, seed: int) -> Signatures:
    """datasketch's MinHash signature of each text: [N, num_perm], uint32.

    The parts of a row go into one set, the shingles of each marked as its own. Where every part reaches the threshold
    so does the whole, so no pair is lost by it.
    """
    sets = (
        [("\0" * part + run).encode() for part, runs in enumerate(shingles(text, config)) for run in runs]
        for text in folded
    )
    # datasketch seeds numpy's RandomState, which takes 32 bits.
    seed_32 = number(seed, "minhash") >> 32
    hashes = MinHash.generator(sets, num_perm=config.num_perm, seed=seed_32)
    return np.array([one.hashvalues for one in hashes], dtype=np.uint32).reshape(-1, config.num_perm)


class Groups:
    """Union-find over range(size); the lowest member names its group."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, a: int, b: int) -> int:
        """Make one group of two; returns its name."""
        a, b = sorted((self.find(a), self.find(b)))
        self._parent[b] = a
        return a


def _connect(texts: Sequence[str], signed: Signatures, config: NearDuplicatesConfig) -> Groups:
    """The groups of `texts`, all different, by candidates and exact check."""
    groups = Groups(len(texts))
    sets = lru_cache(maxsize=100_000)(lambda index: shingles(texts[index], config))
    # Rows of one template share bands by the thousand without being near duplicates. The share of equal hashes
    # estimates their similarity; from 4 standard errors below the threshold on it is worth the exact check.
    error = math.sqrt(config.threshold * (1 - config.threshold) / config.num_perm)
    least = (config.threshold - 4 * error) * config.num_perm
    for bucket in buckets(signed, band_rows(config.threshold, config.num_perm)):
        group = np.array([groups.find(index) for index in bucket])
        for at, index in enumerate(bucket):
            # Rows already connected need no comparison: a bucket of n copies costs n checks, not n^2.
            rest = at + 1 + np.flatnonzero(group[at + 1 :] != group[at])
            equal = (signed[bucket[rest]] == signed[index]).sum(axis=1)
            for other in rest[equal >= least]:
                if group[other] != group[at] and similarity(sets(index), sets(bucket[other])) >= config.threshold:
                    joined = groups.join(index, bucket[other])
                    group[(group == group[at]) | (group == group[other])] = joined
    return groups


def band_rows(threshold: float, num_perm: int) -> int:
    """Hashes in a band: as many as keep the chance of a miss at the threshold below `MISS` (8 for 0.8 and 128).

    A pair of similarity J agrees in a band of r hashes with probability J^r, and there are num_perm // r bands.
    """
    fit = [r for r in range(1, num_perm + 1) if (1 - threshold**r) ** (num_perm // r) <= MISS]
    return max(fit, default=1)


def buckets(signed: Signatures, band_rows: int) -> Iterator[npt.NDArray[np.intp]]:
    """Rows that agree in all hashes of a band, band by band: the candidates. Rows of a bucket ascend."""
    mix = np.random.default_rng(0).integers(1, 2**63, band_rows, dtype=np.uint64) | np.uint64(1)
    for band in range(signed.shape[1] // band_rows):
        # One wrapping 64-bit number a band; if two bands share it by chance, the exact check sorts that out.
        keys = (signed[:, band * band_rows : (band + 1) * band_rows] * mix).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        for start, end in pairwise([0, *borders.tolist(), len(order)]):
            if end - start > 1:
                yield order[start:end]
