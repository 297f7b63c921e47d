"""Bytes of a file as they were before packing, and its lines: of the whole file or of a range of bytes.

Before: `places.py` opens. After: `jsonl.py`, `delimited.py`, `tars.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow

from jemb.tables.places import open_bytes
from jemb.tables.records import MAX_RECORD, Damaged

UNPACKED = 1 << 16
"""Bytes that are held of an unpacked file."""
AT_ONCE = 1 << 14
"""Bytes unpacked at once: when the file turns out to be damaged, at most this much of what could be read is lost."""
PACKINGS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}


def packing(place: str) -> str | None:
    """How the file of that name is packed: gzip, zstd or not."""
    name = place.lower().partition("?")[0]
    return next((kind for ending, kind in PACKINGS.items() if name.endswith(ending)), None)


def open_data(place: str) -> io.BufferedReader:
    """The content of `place`, read in order; `.gz` and `.zst` unpacked. Reading may raise `Damaged`."""
    file = open_bytes(place, in_order=True)
    kind = packing(place)
    return file if kind is None else io.BufferedReader(_Unpacked(file, kind), UNPACKED)


def iter_lines(file: io.BufferedReader, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines that begin in the bytes start ≤ b < end of `file`, without their line feeds.

    end: None is the end of the file. Ranges that join without gap give each line of the file once. Of a line of more
    than `MAX_RECORD` bytes come `MAX_RECORD` + 1.
    """
    position = start
    if start:
        file.seek(start - 1)
        position += _pass_line(file) - 1
    while (end is None or position < end) and (line := file.readline(MAX_RECORD + 1)):
        position += len(line)
        if len(line) > MAX_RECORD and not line.endswith(b"\n"):
            position += _pass_line(file)
        yield line.removesuffix(b"\n")


def _pass_line(file: io.BufferedReader) -> int:
    """Bytes to the end of the line, which is behind `file` then."""
    passed = 0
    while piece := file.readline(MAX_RECORD):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


class _Unpacked(io.RawIOBase):
    """A packed stream whose errors are `Damaged`, raised when all that came before it has been read."""

    def __init__(self, file: io.BufferedReader, kind: str) -> None:
        self._file = file
        self._stream = pyarrow.CompressedInputStream(file, kind)
        self._kind = kind

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(min(len(buffer), AT_ONCE))
        except OSError as error:
            raise Damaged(f"damaged or truncated {self._kind}: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()
