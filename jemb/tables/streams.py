"""Bytes of a file as they were before packing, and its lines: of the whole file or of a range of bytes.

Before: `places.py` opens. After: `jsonl.py`, `delimited.py`, `tars.py`.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow

from jemb.core.errors import InputError
from jemb.tables.places import base_name, open_bytes
from jemb.tables.records import MAX_RECORD

BLOCK = 1 << 20
"""Bytes read at once from a plain file."""
PACKED_BLOCK = 1 << 16
"""The same from a packed one."""
PACKED_READ = 1 << 14
"""Bytes unpacked at once: when the file turns out to be damaged, at most this much of what could be read is lost."""
PACKINGS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"}
_UNPACK = "unpack it first"
_ROWS = "write its rows as JSON lines"
_FOREIGN = {
    b"\x1f\x8b": ("packed with gzip", "name it ….gz"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "name it ….zst"),
    b"BZh": ("packed with bzip2", _UNPACK),
    b"\xfd7zXZ": ("packed with xz", _UNPACK),
    b"PK\x03\x04": ("a zip archive or an Excel sheet", f"{_UNPACK}, or save the sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an Excel sheet", "save it as CSV UTF-8"),
    b"PAR1": ("Parquet", "name it ….parquet"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    **dict.fromkeys((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"), ("a Python pickle, which is code", _ROWS)),
    b"\x93NUMPY": ("a NumPy array", _ROWS),
    b"SQLite format 3": ("an SQLite database", _ROWS),
    b"%PDF": ("a PDF", "extract its texts"),
    b"<!DOCTYPE": ("a web page", "perhaps a login was in the way: download it again"),
    b"<html": ("a web page", "perhaps a login was in the way: download it again"),
    b"version https://git-lfs": ("a pointer of Git LFS, without the data", "git lfs pull"),
}  # fmt: skip
"""How files of other kinds begin, whatever they are named; what they are; what to do."""


class Damaged(Exception):
    """The file breaks off or turns into nonsense here; what came before is good."""


def packing(place: str) -> str | None:
    """How the file of that name is packed: gzip, zstd or not."""
    name = base_name(place).lower()
    return next((kind for ending, kind in PACKINGS.items() if name.endswith(ending)), None)


def open_data(place: str) -> io.BufferedReader:
    """The content of `place`, read in order; `.gz` and `.zst` unpacked.

    Reading may raise `Damaged`; what could be unpacked before comes whole through `read1` only.
    """
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
    for start, (kind, way_out) in _FOREIGN.items():
        if head.startswith(start) and start != but:
            raise InputError(f"{place}: is {kind}; {way_out}")


class Lines:
    """The lines that begin in the bytes start ≤ b < end of `file`, without their line feeds.

    end: None is the end of the file. Ranges that join without gap give each line of the file once. A line of more than
    `MAX_RECORD` bytes comes as its first `MAX_RECORD` + 1. Iterate once.
    count: lines given so far, exact at the end; left_out: bytes of lines too long.
    """

    def __init__(self, file: io.BufferedReader, start: int = 0, end: int | None = None, block: int = BLOCK) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._block = block
        self.count = 0
        self.left_out = 0

    def __iter__(self) -> Iterator[bytes]:
        carry: list[bytes] = []
        length = 0
        for block in self._blocks():
            lines = block.split(b"\n")
            if length <= MAX_RECORD:
                carry.append(lines[0])
            length += len(lines[0])
            if len(lines) == 1:
                continue
            self.count += len(lines) - 1
            yield self._joined(carry, length)
            yield from lines[1:-1]
            carry, length = [lines[-1]], len(lines[-1])
        if length:
            self.count += 1
            yield self._joined(carry, length)

    def _joined(self, pieces: list[bytes], length: int) -> bytes:
        line = b"".join(pieces)[: MAX_RECORD + 1]
        self.left_out += length - len(line)
        return line

    def _blocks(self) -> Iterator[bytes]:
        """The bytes from the first line that begins in the range to the end of the last one."""
        position = max(self._start - 1, 0)
        if position:
            self._file.seek(position)
        skipping = self._start > 0
        while block := self._file.read1(self._block):
            after = position + len(block)
            if self._end is not None and after >= self._end:
                # The line feed that ends the last line is at `end` - 1 or later.
                stop = block.find(b"\n", max(self._end - 1 - position, 0))
                last = stop >= 0
                block = block[: stop + 1] if last else block
            else:
                last = False
            if skipping:
                begin = block.find(b"\n", max(self._start - 1 - position, 0))
                skipping = begin < 0
                block = b"" if skipping else block[begin + 1 :]
            if block:
                yield block
            if last:
                return
            position = after


class _Unpacked(io.RawIOBase):
    """A packed stream whose many errors are one: `Damaged`, raised when all that came before it has been read."""

    def __init__(self, file: io.BufferedReader, unpacked: Any, kind: str) -> None:
        self._file = file
        self._unpacked = unpacked
        self._kind = kind
        self._damage: Damaged | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while self._damage is None and filled < len(buffer):
            try:
                data = self._unpacked.read1(min(len(buffer) - filled, PACKED_READ))
            except (EOFError, zlib.error, OSError) as error:
                self._damage = Damaged(f"damaged or truncated {self._kind}: {error}")
                break
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        if self._damage is not None and not filled:
            raise self._damage
        return filled

    def close(self) -> None:
        self._unpacked.close()
        self._file.close()
        super().close()
