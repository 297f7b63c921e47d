"""The loops over rough scores, compiled: what `scoring.py` asks of each of them.

A rough score is passed as the integer of its bits (int16 of a bfloat16, int32 of a float32), of which a processor
compares 32 or 16 at once. Its *key* orders like the number itself: the bits of a number >= 0, and those of a negative
one with all but the sign turned round.
"""

from __future__ import annotations

import numpy as np

from jemb.prepare.near.kernel import kernel

SEGMENT = 256
"""Scores whose greatest is looked at first. Nearly always it is below the line, and with it all."""


@kernel
def _flip(bits, mask):  # type: ignore[no-untyped-def]
    """Key of the bits of a score. mask: all bits but the sign."""
    return bits ^ mask if bits < 0 else bits


@kernel
def _reaches(segment, floor):  # type: ignore[no-untyped-def]
    """Whether a key in the segment may be >= floor; False is certain."""
    # Negative scores have negative bits in the wrong order: a line below zero is not worth a fast way.
    if floor < 0:
        return True
    greatest = segment[0]
    for place in range(len(segment)):
        greatest = max(greatest, segment[place])
    return greatest >= floor


@kernel
def _dot(a, b):  # type: ignore[no-untyped-def]
    """Inner product in double precision, where products of float32 are exact; always summed in the same order."""
    s0 = s1 = s2 = s3 = 0.0
    whole = len(a) // 4 * 4
    for place in range(0, whole, 4):
        s0 += np.float64(a[place]) * np.float64(b[place])
        s1 += np.float64(a[place + 1]) * np.float64(b[place + 1])
        s2 += np.float64(a[place + 2]) * np.float64(b[place + 2])
        s3 += np.float64(a[place + 3]) * np.float64(b[place + 3])
    for place in range(whole, len(a)):
        s0 += np.float64(a[place]) * np.float64(b[place])
    return (s0 + s1) + (s2 + s3)


@kernel
def dots(a, b, result):  # type: ignore[no-untyped-def]
    """result[n] = inner product of rows n of a and b, [N, D] each."""
    for row in range(len(a)):
        result[row] = _dot(a[row], b[row])


@kernel
def count_above(codes, rows, queries, passages, own, limits, low, high, counts, most):  # type: ignore[no-untyped-def]
    """Add to counts[r] the passages that score above limits[r], until there are `most`.

    codes: [R, W] rough scores of the queries r = rows[...] and the passages [W, D]. own[r]: the passage that does not
    count. A key below low[r] means a score that is surely not above the limit, one over high[r] a score that surely is.
    """
    mask = (1 << (8 * codes.itemsize - 1)) - 1
    width = codes.shape[1]
    for place in range(len(rows)):
        r = rows[place]
        floor = low[r]
        for start in range(0, width, SEGMENT):
            if counts[r] >= most:
                break
            segment = codes[place, start : start + SEGMENT]
            if not _reaches(segment, floor):
                continue
            for column in range(len(segment)):
                key = _flip(segment[column], mask)
                passage = start + column
                if key < floor or passage == own[r]:
                    continue
                if key > high[r] or _dot(queries[r], passages[passage]) > limits[r]:
                    counts[r] += 1
        counts[r] = min(counts[r], most)


@kernel
def take_best(codes, rows, first, queries, passages, errors, scores, found):  # type: ignore[no-untyped-def]
    """Put passages into the lists scores[r] and found[r], best first, where their exact score belongs there.

    codes, rows: as in `count_above`. first: number of the first of the passages [W, D]. errors[r]: greatest error of a
    rough score of r. scores: float32 [B, k], -inf where nothing is found yet; found: numbers of passages, int64 [B, k].
    """
    bits = 8 * codes.itemsize
    mask = (1 << (bits - 1)) - 1
    last = scores.shape[1] - 1
    for place in range(len(rows)):
        r = rows[place]
        floor = _floor(scores[r, last], errors[r], bits)
        for start in range(0, codes.shape[1], SEGMENT):
            segment = codes[place, start : start + SEGMENT]
            if not _reaches(segment, floor):
                continue
            for column in range(len(segment)):
                if _flip(segment[column], mask) >= floor:
                    passage = start + column
                    if _insert(scores[r], found[r], _dot(queries[r], passages[passage]), first + passage):
                        floor = _floor(scores[r, last], errors[r], bits)


@kernel
def count_near(pairs, queries, passages, limits, counts):  # type: ignore[no-untyped-def]
    """Add to counts[r] those of its pairs (r, passage) whose exact score is above limits[r]. pairs: int64 [N, 2]."""
    for place in range(len(pairs)):
        r, passage = pairs[place]
        if _dot(queries[r], passages[passage]) > limits[r]:
            counts[r] += 1


@kernel
def take_near(pairs, first, queries, passages, scores, found):  # type: ignore[no-untyped-def]
    """`take_best` for pairs (r, passage), int64 [N, 2], the passages of each r in ascending order."""
    for place in range(len(pairs)):
        r, passage = pairs[place]
        _insert(scores[r], found[r], _dot(queries[r], passages[passage]), first + passage)


@kernel
def _insert(scores, found, exact, number):  # type: ignore[no-untyped-def]
    """Put a passage into its place in a list; False if it has none there."""
    score = np.float32(exact)
    at = len(scores) - 1
    # Numbers come in ascending order, so an equal score stays behind those before it.
    if score <= scores[at]:
        return False
    while at > 0 and scores[at - 1] < score:
        scores[at] = scores[at - 1]
        found[at] = found[at - 1]
        at -= 1
    scores[at] = score
    found[at] = number
    return True


@kernel
def _floor(score, error, bits):  # type: ignore[no-untyped-def]
    """Least key of a rough score whose exact one may be above `score`."""
    lowest = -(1 << (bits - 1))
    if score == -np.inf:
        return lowest
    key = _flip(np.float32(score - error).view(np.int32), (1 << 31) - 1)
    # One lower: whatever way the two were rounded.
    return max(lowest, (key >> (32 - bits)) - 1)
