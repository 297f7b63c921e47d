"""The byte index beside a tar: where each sample's JSON lies, 12 bytes a sample, memory-mapped.

Before: `writer.py` collects the places. After: `reader.py` reads any row with one system call.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from jemb.core.errors import InputError

Numbers = NDArray[np.int64]

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4")])
"""offset: byte of the tar where the payload starts (its 512-byte header lies before); size: payload bytes."""
MAX_SIZE = 2**32 - 1
"""Largest payload in bytes that the index can hold."""
ROWS = 100_000
"""Entries that are compared with the tar at once."""
HEADER = 512
SIZE, MAGIC, USTAR = range(124, 136), np.arange(257, 262), np.frombuffer(b"ustar", dtype=np.uint8)
"""Bytes of a tar header."""
AGAIN = "restore the file, or prepare the data set again"


def by_part(starts: Sequence[int] | Numbers, rows: Numbers) -> Iterator[tuple[int, Numbers, Numbers]]:
    """(number of a part, which of `rows` are its, their numbers in it). starts: the first row of each part."""
    parts = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(parts, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        if len(chosen):
            number = int(parts[chosen[0]])
            yield number, chosen, rows[chosen] - starts[number]


def encode_index(places: list[tuple[int, int]]) -> bytes:
    """The bytes of the .npy file for (offset, size) of each sample in tar order."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(places, dtype=INDEX_DTYPE))
    return buffer.getvalue()


def index_file_bytes(num_samples: int) -> int:
    """Size of the .npy file for so many samples; lets a reader check 25,000 indexes by `stat` alone."""
    return len(_header(num_samples)) + num_samples * INDEX_DTYPE.itemsize


def _header(num_samples: int) -> bytes:
    header = io.BytesIO()
    layout = {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(header, layout)
    return header.getvalue()


def open_index(path: Path, num_samples: int) -> np.ndarray[Any, Any]:
    """The memory-mapped index [num_samples] of `INDEX_DTYPE`; `InputError` when it is not that."""
    header = _header(num_samples)
    try:
        with path.open("rb") as file:
            if file.read(len(header)) != header or path.stat().st_size != index_file_bytes(num_samples):
                raise InputError(f"{path}: not an index of {num_samples} samples; {AGAIN}")
            if not num_samples:
                return np.empty(0, INDEX_DTYPE)
            # Plain array over the same mapping: indexing np.memmap costs a microsecond more each time.
            return np.asarray(np.memmap(file, INDEX_DTYPE, "r", len(header), (num_samples,)))
    except FileNotFoundError:
        raise InputError(f"{path}: the index is missing; {AGAIN}") from None


def check_index(index: np.ndarray[Any, Any], tar: BinaryIO, path: Path) -> None:
    """Raise `InputError` unless the index at `path` says what the tar's headers say, in their order.

    So an index needs no checksum of its own: the tar has one, and there is only one index of it.
    """
    data = np.memmap(tar, dtype=np.uint8, mode="r")
    last = 0
    for start in range(0, len(index), ROWS):
        offsets, sizes = (index[name][start : start + ROWS].astype(np.int64) for name in ("offset", "size"))
        inside = (offsets >= HEADER) & (offsets + sizes <= len(data))
        headers = np.where(inside, offsets, HEADER)[:, None] - HEADER  # of an empty tar there are no rows
        right = inside & (np.diff(offsets, prepend=last) > 0) & (data[headers + MAGIC] == USTAR).all(1)
        found = np.zeros(len(offsets), dtype=np.int64)
        for place in SIZE:  # octal digits, ended by NUL or space
            digit = data[headers[:, 0] + place].astype(np.int64) - ord("0")
            found = np.where((digit >= 0) & (digit < 8), 8 * found + digit, found)
        wrong = np.flatnonzero(~right | (found != sizes))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{path}: row {start + row} is said to have {sizes[row]} bytes from byte {offsets[row]} on, which the "
                f"tar does not have there; the index has changed: {AGAIN}"
            )
        last = int(offsets[-1])
