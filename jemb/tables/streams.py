"""Bytes of a file as they were before packing, and its lines: of the whole file or of a range of bytes.

Before: `places.py` opens. After: `jsonl.py`, `delimited.py`, `tars.py`.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow

from jemb.core.errors import InputError
from jemb.tables.places import base_name, open_bytes
from jemb.tables.records import MAX_RECORD

LINE_FEED = ord("\n")
PACKED_BLOCK = 1 << 16
"""Bytes unpacked at once: when the file turns out to be damaged, at most this much of what could be read is lost."""
PACKINGS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}
_WEB_PAGE = "a web page; perhaps a login was in the way: download it again"
_PICKLE = "a Python pickle, which is code; write its rows as JSON lines"
_FOREIGN = {
    b"\x1f\x8b": "packed with gzip; name it ….gz",
    b"\x28\xb5\x2f\xfd": "packed with zstd; name it ….zst",
    b"BZh": "packed with bzip2; unpack it first",
    b"\xfd7zXZ": "packed with xz; unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it first, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel sheet; save it as CSV UTF-8",
    b"PAR1": "Parquet; name it ….parquet",
    b"\x80\4": _PICKLE,
    b"\x80\5": _PICKLE,
    b"<!DOCTYPE": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"version https://git-lfs": "a pointer of Git LFS, without the data; git lfs pull",
}
"""How files of other kinds begin, whatever they are named; what they are, and what to do."""


class Damaged(Exception):
    """The file breaks off or turns into nonsense here; what came before is good."""


def packing(place: str) -> str | None:
    """How the file of that name is packed: gzip, zstd or not."""
    name = base_name(place).lower()
    return next((kind for ending, kind in PACKINGS.items() if name.endswith(ending)), None)


def open_data(place: str) -> io.BufferedReader:
    """The content of `place`, read in order; `.gz` and `.zst` unpacked. Reading may raise `Damaged`."""
    file = open_bytes(place, in_order=True)
    kind = packing(place)
    if kind is None:
        return file
    unpacked: Any = gzip.GzipFile(fileobj=file) if kind == "gzip" else pyarrow.CompressedInputStream(file, kind)
    return io.BufferedReader(_Unpacked(file, unpacked, kind), PACKED_BLOCK)


def refuse_foreign(place: str, file: io.BufferedReader, but: bytes = b"\n") -> None:
    """`InputError` when `file`, at its begin, is of another kind than its name says; it is not moved on.

    but: a beginning that it may have.
    """
    head = file.peek(32)[:32]
    every_other = len(head) >= 4 and [not byte for byte in head[:4]] in ([False, True] * 2, [True, False] * 2)
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or every_other:
        raise InputError(f"{place}: is UTF-16; wanted UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE")
    for start, kind in _FOREIGN.items():
        if head.startswith(start) and start != but:
            raise InputError(f"{place}: is {kind}")


def lines(file: io.BufferedReader, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines that begin in the bytes start ≤ b < end of `file`, without their line feeds.

    end: None is the end of the file. Ranges that join without gap give each line of the file once. A line of more than
    `MAX_RECORD` bytes comes as its first `MAX_RECORD` + 1.
    """
    position, stop, most = max(start - 1, 0), sys.maxsize if end is None else end, MAX_RECORD + 1
    if start:
        file.seek(position)
        position += _pass_line(file)
    while position < stop and (line := file.readline(most)):
        position += len(line)
        if line[-1] == LINE_FEED:
            yield line[:-1]
        else:
            position += _pass_line(file) if len(line) == most else 0
            yield line


def _pass_line(file: io.BufferedReader) -> int:
    """Go on to the next line; how many bytes that is."""
    passed = 0
    while piece := file.readline(PACKED_BLOCK):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


class _Unpacked(io.RawIOBase):
    """A packed stream whose many errors are one: `Damaged`."""

    def __init__(self, file: io.BufferedReader, unpacked: Any, kind: str) -> None:
        self._file = file
        self._unpacked = unpacked
        self._kind = kind

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._unpacked.read1(min(len(buffer), PACKED_BLOCK))
        except (EOFError, zlib.error, OSError) as error:
            raise Damaged(f"damaged or truncated {self._kind}: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._unpacked.close()
        self._file.close()
        super().close()
