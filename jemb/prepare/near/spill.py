"""What the signed rows of a piece leave on disk: folded texts, digests and band keys.

Before: `near_duplicates.py` signs a piece. After: its later tasks read, of every piece, the keys of one column and
range, and the texts of candidates. One file a piece, little-endian, the arrays of `write_spill` end to end.

A column is the digest (0) or a band (1 + its number). Its keys lie in `ranges` parts of equal width, so that a task
reads its part of a column in one run; rows ascend in each part. A row has a number: its place among the live rows of
all pieces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jemb.core.files import write_atomic
from jemb.prepare.near.folding import Numbers, Packed, copy_runs, ends
from jemb.prepare.near.minhash import Keys

NEAR = 1 << 14
"""Bytes between two wanted texts up to which they are read in one go."""


@dataclass(frozen=True, slots=True)
class Spills:
    """The files of all pieces. starts: [pieces + 1], number of the first row of each. Reads bounded parts at a time."""

    paths: tuple[Path, ...]
    starts: Numbers
    columns: int
    ranges: int

    def ids(self) -> Numbers:
        """[rows], ascending."""
        parts = [
            np.fromfile(path, np.int64, rows)
            for path, rows in zip(self.paths, np.diff(self.starts).tolist(), strict=True)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def keys(self, column: int, part: int) -> tuple[Keys, Numbers]:
        """(keys, rows) of one range of a column; rows ascend."""
        keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for piece, path in enumerate(self.paths):
            place, at, count = self._part(piece, column, part)
            keys.append(np.fromfile(path, np.uint64, count, offset=place.keys + 8 * at))
            local = np.fromfile(path, place.number, count, offset=place.rows + place.number.itemsize * at)
            rows.append(self.starts[piece] + local.astype(np.int64))
        return np.concatenate(keys), np.concatenate(rows)

    def digests(self, part: int) -> tuple[Keys, Numbers]:
        """(digests [2, N], rows) of one range."""
        high, rows = self.keys(0, part)
        low = [np.empty(0, np.uint64)]
        for piece, path in enumerate(self.paths):
            place, at, count = self._part(piece, 0, part)
            low.append(np.fromfile(path, np.uint64, count, offset=place.seconds + 8 * at))
        return np.stack([high, np.concatenate(low)]), rows

    def lengths(self, rows: Numbers) -> Numbers:
        """Bytes of each of these texts."""
        return self._extents(rows)[1]

    def take(self, rows: Numbers) -> Packed:
        """The folded texts of these rows, in this order."""
        starts, lengths = self._extents(rows)
        offsets = ends(lengths)
        data = np.empty(offsets[-1], np.uint8)
        for piece, where in self._by_piece(rows):
            run, begins = _read_runs(self.paths[piece], starts[where], lengths[where])
            copy_runs(run, begins, lengths[where], offsets[where], data)
        return Packed(data, offsets)

    def _extents(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """Of each row the first byte of its text in its file, and how many there are."""
        starts, lengths = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for piece, where in self._by_piece(rows):
            place = self._place(piece)
            local = rows[where] - self.starts[piece]
            offsets = np.memmap(self.paths[piece], np.int64, "r", place.offsets, (place.count + 1,))
            starts[where] = offsets[local]
            lengths[where] = offsets[local + 1] - offsets[local]
            starts[where] += place.text
        return starts, lengths

    def _by_piece(self, rows: Numbers) -> Iterator[tuple[int, Numbers]]:
        """(piece, places in `rows` of those in it, by ascending row)."""
        order = np.argsort(rows, kind="stable")
        borders = np.searchsorted(rows[order], self.starts)
        for piece in range(len(self.paths)):
            where = order[borders[piece] : borders[piece + 1]]
            if len(where):
                yield piece, where

    def _place(self, piece: int) -> _Places:
        return _places(int(self.starts[piece + 1] - self.starts[piece]), self.columns, self.ranges)

    def _part(self, piece: int, column: int, part: int) -> tuple[_Places, int, int]:
        """Of one range of a column the first place in an array of all columns, and how many rows it has."""
        place = self._place(piece)
        offset = place.borders + 8 * (column * (self.ranges + 1) + part)
        low, high = np.fromfile(self.paths[piece], np.int64, 2, offset=offset).tolist()
        return place, column * place.count + low, high - low


def write_spill(path: Path, ids: Numbers, folded: Packed, digests: Keys, bands: Keys, ranges: int) -> None:
    """The file of a piece of N rows. ids: [N]. digests: [2, N]. bands: [B, N]. ranges: 1 to 65,535."""
    columns = np.concatenate([digests[:1], bands])
    orders = np.empty(columns.shape, np.intp)
    borders = np.zeros((len(columns), ranges + 1), np.int64)
    for number, keys in enumerate(columns):
        part = ((keys >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)).astype(np.uint16)
        orders[number] = np.argsort(part, kind="stable")
        borders[number, 1:] = np.cumsum(np.bincount(part, minlength=ranges))
        columns[number] = keys[orders[number]]
    rows = orders.astype(_places(len(ids), len(columns), ranges).number)
    arrays = [ids, folded.offsets, borders, columns, digests[1, orders[0]], rows, folded.data]
    write_atomic(path, b"".join(array.tobytes() for array in arrays))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the arrays of a file of `count` rows begin, and the type of `rows`."""

    count: int
    offsets: int
    borders: int
    keys: int
    seconds: int
    rows: int
    text: int
    number: np.dtype


def _places(count: int, columns: int, ranges: int) -> _Places:
    number = np.dtype(np.uint16 if count <= 1 << 16 else np.uint32)
    offsets = 8 * count
    borders = offsets + 8 * (count + 1)
    keys = borders + 8 * columns * (ranges + 1)
    seconds = keys + 8 * columns * count
    rows = seconds + 8 * count
    return _Places(count, offsets, borders, keys, seconds, rows, rows + number.itemsize * columns * count, number)


def _read_runs(path: Path, starts: Numbers, lengths: Numbers) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """(bytes, where each text begins in them); texts that are near each other come with what is between."""
    stops = starts + lengths
    first = np.concatenate([[True], starts[1:] - stops[:-1] > NEAR])
    begins = starts[first]
    sizes = stops[np.append(np.flatnonzero(first)[1:], len(starts)) - 1] - begins
    places = ends(sizes)
    data = np.empty(places[-1], np.uint8)
    with path.open("rb", buffering=0) as file:
        view = data.data
        for begin, low, high in zip(begins.tolist(), places[:-1].tolist(), places[1:].tolist(), strict=True):
            os.preadv(file.fileno(), [view[low:high]], begin)
    run = np.cumsum(first) - 1
    return data, starts - begins[run] + places[run]
