"""The exact check: which rows of a bucket have a Jaccard similarity at or above the threshold in every part.

Before: `near/candidates.py` puts rows whose band keys agree into buckets. A small bucket is compared pair by pair. Rows
of one template share buckets by the thousand though few of them are duplicates: in a bigger bucket only rows that share
one of their rarest shingles are compared (prefix filter: Bayardo et al., "Scaling up all pairs similarity search", WWW
2007; Xiao et al., "Efficient similarity joins for near duplicate detection", WWW 2008), which loses no pair.
"""

from __future__ import annotations

import numpy as np

from jemb.prepare.equal import Numbers
from jemb.prepare.near.kernel import kernel
from jemb.prepare.near.minhash import Sets

SMALL = 48
"""Rows of a bucket up to which every pair is compared."""
BUDGET = 1 << 14
"""Looks a row of a big bucket has at the others, a comparison counting as `PRICE`. It binds only where more than
`BUDGET / PRICE` rows of one bucket share the rarest shingles of a row, which they mostly do because they are near
duplicates of it; pairs beyond it can be missed unless another band or a third row connects them."""
PRICE = 64
ROUNDING = 1e-9


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
    found, compared = _check_small(*data, starts, parents, threshold, edges, similar)
    for bucket in np.flatnonzero(np.diff(starts) > SMALL):
        low, high = starts[bucket : bucket + 2]
        sizes = np.diff(sets.parts[sets.rows[low : high + 1]])
        order = low + np.argsort(sizes, kind="stable")
        entries = int((sizes - np.ceil(2 * threshold / (1 + threshold) * sizes - ROUNDING) + 1).sum())
        bits = min(22, max(10, int(sizes.sum() - 1).bit_length()))
        shingles = sets.values[sets.parts[sets.rows[low]] : sets.parts[sets.rows[high]]]
        counts = np.bincount(shingles >> np.uint64(64 - bits), minlength=1 << bits)
        more, looks = _check_big(
            *data, order, int(sizes.max()), entries, counts, bits, parents, threshold, edges[found:], similar[found:]
        )
        found, compared = found + more, compared + looks
    return edges[:found], similar[:found], compared


def similarities(one: Sets, other: Sets, pairs: Numbers, threshold: float) -> np.ndarray:
    """Of each pair (row of `one`, row of `other`) the similarity of the least similar part, 0 where it is below the
    threshold."""
    out = np.empty(len(pairs))
    data = (one.values, one.parts, one.rows, other.values, other.parts, other.rows)
    _similarities(*data, pairs, threshold, out)
    return out


def merge(names: Numbers, edges: Numbers) -> np.ndarray:
    """Join components, in place: names[row] is the lowest row of its component, before and after. -1: no row.

    [E] bool: the edges [E, 2] that connected what was not connected yet.
    """
    joined = np.zeros(len(edges), np.bool_)
    _merge(names, np.ascontiguousarray(edges), joined)
    return joined


@kernel
def _find(parents, item):  # type: ignore[no-untyped-def]
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


@kernel
def _join(parents, one, other):  # type: ignore[no-untyped-def]
    """Connect two roots; the lower one stays."""
    low, high = min(one, other), max(one, other)
    parents[high] = low
    return low


@kernel
def _merge(names, edges, joined):  # type: ignore[no-untyped-def]
    for edge in range(len(edges)):
        one, other = _find(names, edges[edge, 0]), _find(names, edges[edge, 1])
        if one != other:
            _join(names, one, other)
            joined[edge] = True
    for row in range(len(names)):
        if names[row] >= 0:
            names[row] = names[names[row]]  # lower rows come first, so theirs is final


@kernel
def _jaccard(a, a_at, a_end, b, b_at, b_end, threshold):  # type: ignore[no-untyped-def]
    """Of two ascending sets; 0 as soon as it must be below the threshold."""
    total = a_end - a_at + b_end - b_at
    need = np.int64(np.ceil(threshold / (1 + threshold) * total - ROUNDING))
    common = 0
    while a_at < a_end and b_at < b_end:
        if common + min(a_end - a_at, b_end - b_at) < need:
            return 0.0
        x, y = a[a_at], b[b_at]
        common += x == y
        a_at += x <= y
        b_at += y <= x
    similarity = common / (total - common)
    return similarity if similarity >= threshold else 0.0


@kernel
def _similarity(a, a_parts, a_rows, one, b, b_parts, b_rows, other, threshold):  # type: ignore[no-untyped-def]
    """Of the least similar part; 0 when it is below the threshold, or the rows have other parts."""
    count = a_rows[one + 1] - a_rows[one]
    if b_rows[other + 1] - b_rows[other] != count:
        return 0.0
    least = 1.0
    for part in range(count):
        j, k = a_rows[one] + part, b_rows[other] + part
        least = min(least, _jaccard(a, a_parts[j], a_parts[j + 1], b, b_parts[k], b_parts[k + 1], threshold))
        if least == 0.0:
            break
    return least


@kernel
def _similarities(a, a_parts, a_rows, b, b_parts, b_rows, pairs, threshold, out):  # type: ignore[no-untyped-def]
    for pair in range(len(pairs)):
        out[pair] = _similarity(a, a_parts, a_rows, pairs[pair, 0], b, b_parts, b_rows, pairs[pair, 1], threshold)


@kernel
def _check_small(values, parts, rows, starts, parents, threshold, edges, similar):  # type: ignore[no-untyped-def]
    """Every pair of the buckets of at most `SMALL` rows."""
    found = 0
    compared = 0
    for bucket in range(len(starts) - 1):
        low, high = starts[bucket], starts[bucket + 1]
        if high - low > SMALL:
            continue
        for one in range(low, high):
            for other in range(one + 1, high):
                root, to = _find(parents, one), _find(parents, other)
                if root == to:
                    continue
                compared += 1
                score = _similarity(values, parts, rows, one, values, parts, rows, other, threshold)
                if score > 0.0:
                    _join(parents, root, to)
                    edges[found, 0], edges[found, 1], similar[found] = one, other, score
                    found += 1
    return found, compared


@kernel
def _check_big(  # type: ignore[no-untyped-def]
    values, parts, rows, order, longest, entries, counts, bits, parents, threshold, edges, similar
):
    """Rows are taken by ascending size, each looks for its rarest shingles in an index of the rarest of those before.

    Of two sets with |A| <= |B| and Jaccard >= t, at least t / (1 + t) (|A| + |B|) shingles are common. In any common
    order, so many missing ones are too few to fill the first |A| - ceil(2t / (1 + t) |A|) + 1 of A and
    |B| - ceil(t |B|) + 1 of B: these share one. The rarer the first ones, the fewer share them by chance.
    order: [N], by size. counts: how often shingles with the same leading bits occur, a rough count to rank them by.
    """
    heads = np.full(1 << bits, -1, np.int64)
    # An index entry: shingle, row, place among the row's shingles, the entry before it in the same chain.
    shingle = np.empty(entries, np.uint64)
    owner = np.empty(entries, np.int64)
    place = np.empty(entries, np.int64)
    before = np.empty(entries, np.int64)
    stamps = np.full(len(order), -1, np.int64)
    ranked = np.empty(longest, np.uint64)
    low = order.min()
    last = 0
    found = 0
    compared = 0
    for row in order:
        at, size = parts[rows[row]], parts[rows[row + 1]] - parts[rows[row]]
        for i in range(size):
            count = np.uint64(min(counts[np.int64(values[at + i] >> np.uint64(64 - bits))], 0xFFFFF))
            ranked[i] = count << np.uint64(44) | values[at + i] >> np.uint64(20)
        ranked[:size].sort()
        budget = BUDGET
        for look in range(_prefix(size, threshold)):
            entry = heads[_slot(ranked[look], bits)]
            while entry >= 0 and budget > 0:
                other = owner[entry]
                other_size = parts[rows[other + 1]] - parts[rows[other]]
                if other_size < threshold * size - ROUNDING:
                    break  # those before it are smaller still
                budget -= 1
                same = shingle[entry] == ranked[look] and stamps[other - low] != row
                # Before their first common shingle they share none.
                most = min(size - look, other_size - place[entry])
                entry = before[entry]
                if not same:
                    continue
                stamps[other - low] = row
                root, to = _find(parents, row), _find(parents, other)
                if root == to:
                    budget -= 16
                if root == to or most < threshold / (1 + threshold) * (size + other_size) - ROUNDING:
                    continue
                compared += 1
                budget -= PRICE
                score = _similarity(values, parts, rows, row, values, parts, rows, other, threshold)
                if score > 0.0:
                    _join(parents, root, to)
                    edges[found, 0], edges[found, 1], similar[found] = min(row, other), max(row, other), score
                    found += 1
        for look in range(_prefix(size, 2 * threshold / (1 + threshold))):
            slot = _slot(ranked[look], bits)
            shingle[last], owner[last], place[last], before[last] = ranked[look], row, look, heads[slot]
            heads[slot] = last
            last += 1
    return found, compared


@kernel
def _prefix(size, share):  # type: ignore[no-untyped-def]
    """How many of the rarest shingles of a row cannot all be missing from a row that has `share` of them."""
    return size - np.int64(np.ceil(share * size - ROUNDING)) + 1


@kernel
def _slot(key, bits):  # type: ignore[no-untyped-def]
    return np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
