"""Which rows or texts are equal: 128-bit digests, a file of them for each piece, compared range by range.

`stages/exact.py` finds equal rows with it, `vectors/numbering.py` equal texts, `near/join.py` rows of equal words.
Among 10^10 different texts the chance that any two have the same digest is below 10^-18.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Table, scrambled

RANGE_ROWS = 8_000_000
"""Keys of a range, which are compared at once; about 400 MB."""

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


def digest(texts: Iterable[str]) -> bytes:
    """128 bits of some texts in their order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.digest()


def write_digests(path: Path, digests: Iterable[bytes]) -> dict[str, Any]:
    """A file for `find_equal`: the halves of N digests, uint64 [2, N]."""
    halves = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    write_array(path, np.ascontiguousarray(halves.T))
    return {}


def find_equal(job: Job, paths: Sequence[Path], counts: Sequence[int]) -> Numbers:
    """[E, 2]: (place, place of the first one that is equal) of all that are not the first of their kind, in no order.

    paths: of `.npy` files uint64 [2 or more, N] whose first two rows are digests, N as in `counts`. The places of a
    file follow those of the files before it.
    """
    ranges = num_ranges(sum(counts))
    starts = ends(np.array(counts, np.int64))
    job.map(
        "equal",
        partial(_find, paths, starts, ranges, job.folder),
        range(ranges),
        sizes=[sum(counts) // ranges] * ranges,
    )
    return np.concatenate([np.load(_pairs_file(job.folder, part)) for part in range(ranges)])


def all_ids(table: Table) -> Numbers:
    """Ids of all live rows, ascending: what places stand for where each piece has a file."""
    return np.concatenate([np.empty(0, np.int64), *map(table.ids, range(table.num_pieces))])


def draw(ids: Numbers, count: int, seed: int, purpose: str) -> Numbers:
    """Places in `ids` of `count` of them, ascending, drawn at random by the ids alone; all where there are no more."""
    if len(ids) <= count:
        return np.arange(len(ids))
    return np.sort(np.argpartition(scrambled(ids, seed, purpose), count)[:count])


def num_ranges(rows: int) -> int:
    """Of keys, by the number of rows alone, so that the same work is done with any number of workers."""
    return max(1, -(-rows // RANGE_ROWS))


def read_range(paths: Sequence[Path], starts: Numbers, columns: slice, ranges: int, part: int) -> tuple[Keys, Numbers]:
    """(keys [columns, M], places [M]) of one of `ranges` equal parts of the values of the first of the columns.

    starts: [files + 1], places of the first key of each file. Places ascend.
    """
    keys, places = [], []
    for path, start in zip(paths, starts[:-1].tolist(), strict=True):
        found = np.array(np.load(path, mmap_mode="r")[columns])
        inside = np.arange(found.shape[1])
        if ranges > 1:
            inside = np.flatnonzero((found[0] >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32) == part)
            found = found[:, inside]
        keys.append(found)
        places.append(start + inside)
    if not keys:
        return np.empty((columns.stop - columns.start, 0), np.uint64), np.empty(0, np.int64)
    return np.concatenate(keys, axis=1), np.concatenate(places)


def groups(keys: Keys) -> tuple[Numbers, Numbers]:
    """(order [M], starts [G + 1]): places of keys that are equal, group after group, ascending in each; none of keys
    that occur once. Keys that agree only in their leading bits, 64 less those of a place, may be in one group."""
    # Counted by some of their bits: most keys that occur once need no sorting.
    slots = (keys & np.uint64((1 << max(10, (4 * len(keys)).bit_length())) - 1)).astype(np.int64)
    again = np.flatnonzero(np.bincount(slots)[slots] > 1)
    # One sort of plain numbers: leading bits of the key, then the place.
    bits = np.uint64(max(1, (len(again) - 1).bit_length()))
    packed = keys[again] << bits | np.arange(len(again), dtype=np.uint64)
    packed.sort()
    order = again[(packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)]
    packed >>= bits
    starts = np.flatnonzero(np.concatenate([[True], packed[1:] != packed[:-1]])[: len(packed)])
    sizes = np.diff(np.append(starts, len(order)))
    return order[np.repeat(sizes > 1, sizes)], ends(sizes[sizes > 1])


def equal_pairs(digests: Keys, places: Numbers) -> Numbers:
    """[E, 2]: (place, lowest place of the same digest) of each that is not the first of its kind. digests: [2, N]."""
    again, _ = groups(digests[0])
    places, (high, low) = places[again], digests[:, again]
    order = np.lexsort((places, low, high))
    places, high, low = places[order], high[order], low[order]
    new = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])[: len(places)]
    firsts = places[new][np.cumsum(new) - 1]
    return np.stack([places, firsts], axis=1)[~new]


def ends(lengths: Numbers) -> Numbers:
    """Offsets [N + 1] of N things of these lengths that lie end to end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _find(paths: Sequence[Path], starts: Numbers, ranges: int, folder: Path, part: int) -> dict[str, Any]:
    write_array(_pairs_file(folder, part), equal_pairs(*read_range(paths, starts, slice(0, 2), ranges, part)))
    return {}


def _pairs_file(folder: Path, part: int) -> Path:
    return folder / f"equal-{part:06d}.npy"
