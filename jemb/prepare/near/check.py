"""The exact check: which rows of a bucket have a Jaccard similarity at or above the threshold in every part.

Before: `near/buckets.py` puts rows whose band keys agree into buckets. A small bucket is compared pair by pair. Rows of
one template share buckets by the thousand though few of them are duplicates: in a bigger bucket only rows that share
one of their rarest shingles are compared (prefix filter: Bayardo et al., "Scaling up all pairs similarity search", WWW
2007; Xiao et al., "Efficient similarity joins for near duplicate detection", WWW 2008), which loses no pair.
"""

from __future__ import annotations

import numpy as np

from jemb.prepare.near.kernel import kernel, ones

SMALL = 48
"""Rows of a bucket up to which every pair is compared."""
BUDGET = 1 << 14
"""Looks a row of a big bucket has at the others, a comparison counting as `PRICE`. It binds only where more than
`BUDGET / PRICE` rows of one bucket share the rarest shingles of a row, which they mostly do because they are near
duplicates of it; pairs beyond it can be missed unless another band or a third row connects them."""
PRICE = 64
ROUNDING = 1e-9


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
def merge(names, edges):  # type: ignore[no-untyped-def]
    """Join components, in place: names[row] is the lowest row of its component, before and after. -1: no row."""
    for edge in range(len(edges)):
        one, other = _find(names, edges[edge, 0]), _find(names, edges[edge, 1])
        if one != other:
            _join(names, one, other)
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
def similarities(a, a_parts, a_rows, b, b_parts, b_rows, pairs, threshold, out):  # type: ignore[no-untyped-def]
    """Of each pair (row of a, row of b)."""
    for pair in range(len(pairs)):
        out[pair] = _similarity(a, a_parts, a_rows, pairs[pair, 0], b, b_parts, b_rows, pairs[pair, 1], threshold)


@kernel
def check_small(values, parts, rows, starts, parents, threshold, edges, similar):  # type: ignore[no-untyped-def]
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
def check_big(  # type: ignore[no-untyped-def]
    values, parts, rows, low, high, parents, seen, bucket, threshold, edges, similar
):
    """Rows are taken by ascending size, each looks for its rarest shingles in an index of the rarest of those before.

    Of two sets with |A| <= |B| and Jaccard >= t, at least t / (1 + t) (|A| + |B|) shingles are common. In any common
    order, so many missing ones are too few to fill the first |A| - ceil(2t / (1 + t) |A|) + 1 of A and
    |B| - ceil(t |B|) + 1 of B: these share one. The rarer the first ones, the fewer share them by chance.
    """
    order, longest, total = _by_size(parts, rows, low, high)
    bits = 10
    while bits < 22 and (1 << bits) < total:
        bits += 1
    counts = _counts(values, parts[rows[low]], parts[rows[high]], bits)
    heads = np.full(1 << bits, -1, np.int64)
    # An index entry: shingle, row, place among the row's shingles, the entry before it in the same chain.
    limit = 0
    for row in range(low, high):
        limit += _prefix(parts[rows[row + 1]] - parts[rows[row]], 2 * threshold / (1 + threshold))
    shingle = np.empty(limit, np.uint64)
    owner = np.empty(limit, np.int64)
    place = np.empty(limit, np.int64)
    before = np.empty(limit, np.int64)
    stamps = np.full(high - low, -1, np.int64)
    sketches = _sketches(values, parts, rows, low, high, total)
    ranked = np.empty(longest, np.uint64)
    entries = 0
    groups = 0
    found = 0
    compared = 0
    for row in order:
        size = parts[rows[row + 1]] - parts[rows[row]]
        _rarest_first(values, parts[rows[row]], size, counts, bits, ranked)
        root = _find(parents, row)
        groups += seen[root] != bucket
        seen[root] = bucket
        budget = BUDGET
        for look in range(_prefix(size, threshold)):
            # Once all rows so far are connected there is nothing to find: n copies cost n looks.
            if groups == 1 or budget <= 0:
                break
            key = ranked[look]
            entry = heads[np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))]
            while entry >= 0 and budget > 0:
                other = owner[entry]
                other_size = parts[rows[other + 1]] - parts[rows[other]]
                if other_size < threshold * size - ROUNDING:
                    break  # those before it are smaller still
                budget -= 1
                at = place[entry]
                same = shingle[entry] == key and stamps[other - low] != row
                entry = before[entry]
                if not same:
                    continue
                stamps[other - low] = row
                to = _find(parents, other)
                root = _find(parents, row)
                # Before their first common shingle they share none.
                most = min(size - look, other_size - at)
                need = threshold / (1 + threshold) * (size + other_size) - ROUNDING
                if root == to or most < need:
                    continue
                budget -= 1
                if (size + other_size - _apart(sketches[row - low], sketches[other - low])) / 2 < need:
                    continue
                compared += 1
                budget -= PRICE
                score = _similarity(values, parts, rows, row, values, parts, rows, other, threshold)
                if score > 0.0:
                    seen[_join(parents, root, to)] = bucket
                    groups -= 1
                    edges[found, 0], edges[found, 1], similar[found] = min(row, other), max(row, other), score
                    found += 1
                    if groups == 1:
                        break
        for look in range(_prefix(size, 2 * threshold / (1 + threshold))):
            slot = np.int64((ranked[look] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
            shingle[entries], owner[entries], place[entries] = ranked[look], row, look
            before[entries] = heads[slot]
            heads[slot] = entries
            entries += 1
    return found, compared


@kernel
def _prefix(size, share):  # type: ignore[no-untyped-def]
    """How many of the rarest shingles of a row cannot all be missing from a row that has `share` of them."""
    return size - np.int64(np.ceil(share * size - ROUNDING)) + 1


@kernel
def _by_size(parts, rows, low, high):  # type: ignore[no-untyped-def]
    """Rows low to high by number of shingles, the greatest number, and their sum."""
    longest = 0
    total = 0
    for row in range(low, high):
        size = parts[rows[row + 1]] - parts[rows[row]]
        longest = max(longest, size)
        total += size
    places = np.zeros(longest + 2, np.int64)
    for row in range(low, high):
        places[parts[rows[row + 1]] - parts[rows[row]] + 1] += 1
    for size in range(longest + 1):
        places[size + 1] += places[size]
    order = np.empty(high - low, np.int64)
    for row in range(low, high):
        size = parts[rows[row + 1]] - parts[rows[row]]
        order[places[size]] = row
        places[size] += 1
    return order, longest, total


@kernel
def _sketches(values, parts, rows, low, high, total):  # type: ignore[no-untyped-def]
    """A few bits for each row: each of its shingles flips one. What differs in the sketches of two rows cannot be more
    than what differs in the rows (bitmap filter: Sandes et al., IEEE TKDE 2020)."""
    words = 4
    while words < 64 and words * 32 < total // (high - low):
        words *= 2
    sketches = np.zeros((high - low, words), np.uint64)
    for row in range(low, high):
        for place in range(parts[rows[row]], parts[rows[row + 1]]):
            value = values[place]
            word = np.int64(value >> np.uint64(6)) & (words - 1)
            sketches[row - low, word] ^= np.uint64(1) << (value & np.uint64(63))
    return sketches


@kernel
def _apart(one, other):  # type: ignore[no-untyped-def]
    count = np.uint64(0)
    for word in range(len(one)):
        count += ones(one[word] ^ other[word])
    return np.int64(count)


@kernel
def _counts(values, at, end, bits):  # type: ignore[no-untyped-def]
    """How often shingles with the same leading bits occur. A rough count will do: it only ranks them."""
    counts = np.zeros(1 << bits, np.uint32)
    for place in range(at, end):
        counts[np.int64(values[place] >> np.uint64(64 - bits))] += 1
    return counts


@kernel
def _rarest_first(values, at, size, counts, bits, out):  # type: ignore[no-untyped-def]
    """The row's shingles as (count, leading bits), ascending: one order for all rows."""
    for i in range(size):
        value = values[at + i]
        count = np.uint64(min(counts[np.int64(value >> np.uint64(64 - bits))], np.uint32(0xFFFFF)))
        out[i] = count << np.uint64(44) | value >> np.uint64(20)
    gap = size // 2
    while gap > 0:
        for i in range(gap, size):
            value = out[i]
            j = i
            while j >= gap and out[j - gap] > value:
                out[j] = out[j - gap]
                j -= gap
            out[j] = value
        gap = 1 if gap == 2 else np.int64(gap / 2.2)
