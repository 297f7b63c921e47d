"""Tars made by others: their members checked for damage, and their samples as WebDataset groups them.

After: `whole.py` gives the samples as rows; `shards/adopt.py` takes tars over as they are. A tar is read once from
begin to end, so that it may be packed or far away, and no member of it fills the memory. Nothing is unpickled: JSON and
text are decoded.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

from jemb.core.errors import InputError
from jemb.tables.records import MAX_RECORD, TOO_LONG, Bad, NotText, Record, excerpt, json_of, text_of
from jemb.tables.streams import Damaged, open_data, refuse_foreign

# As in webdataset.tariterators: key = path up to the first dot of the last component; `__name__` is metadata.
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
MAX_HEADER = 1 << 20
"""Bytes of headers before a member, long names and attributes included."""
KEYS = 1 << 20
"""Samples back to which a key is looked for that comes again."""
SKIPPED = 1 << 20
"""Bytes read at once of what is not looked at."""
ADJACENT = (
    "WebDataset wants the members of a sample next to each other: pack the files again in order of name "
    "(tar --sort=name -cf NEW.tar FOLDER)"
)


def read_tar(place: str) -> Iterator[Record | Bad]:
    """The samples of a WebDataset tar as rows.

    `KEY.json`: its object's fields. `KEY.NAME.json`: field NAME with that JSON value. Others: a field named by the
    extension, less a final `.txt` (`KEY.query.txt` gives "query"), with the text in it, or `NotText`.
    Raises `InputError` when a sample's members do not lie together, or come twice.
    """
    number = 0
    try:
        with open_data(place) as file:
            refuse_foreign(place, file)
            for number, (sample, reason, text) in enumerate(_samples(file), 1):
                yield Bad(number, reason, text) if reason else (number, sample)
    except _Order as error:
        raise InputError(f"{place}: {error}") from None
    except (Damaged, tarfile.TarError) as error:
        yield Bad(number + 1, str(error), rest_lost=True)


def iter_members(file: io.BufferedReader) -> Iterator[tuple[str, str, tarfile.TarInfo, Callable[[], bytes]]]:
    """(key, extension, header, reader) of the regular files of a tar that belong to samples, in order. `file` is read
    forward, so a reader gives its payload once, before the next member is asked for.

    Raises `tarfile.TarError` naming the byte when the tar is damaged or cut off. Python's tarfile stops without a word
    at a damaged header and at a cut between two members, so the end mark is looked for.
    """
    stream = _Stream(file)
    position = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                archive.members.clear()  # it would keep every member in memory
                position = archive.offset
                if info.size < 0:
                    raise tarfile.ReadError(f"member {info.name!r} has {info.size} bytes")
                found = _KEY.fullmatch(info.name)
                if info.isreg() and found and not _META.match(info.name):
                    yield found[1], found[2].lower(), info, partial(stream.payload, info)
                stream.seek(position)
            position = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise tarfile.ReadError(f"damaged or cut off after byte {position} ({error})") from None
    _check_end(stream, position)


class _Stream:
    """A file as tarfile reads headers from it: forward only, and never much at once."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.at = 0
        self.last = b""
        self._left = MAX_HEADER

    def tell(self) -> int:
        return self.at

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER >> 20} MiB")
        self.last = self.file.read(size)
        self.at += len(self.last)
        return self.last

    def payload(self, info: tarfile.TarInfo) -> bytes:
        data = self.file.read(info.size)
        self.at += len(data)
        if len(data) < info.size:
            raise tarfile.ReadError(f"cut off at byte {self.at} in member {info.name!r}")
        return data

    def seek(self, position: int) -> None:
        """To the next header."""
        self._left = MAX_HEADER
        if self.file.seekable() and position - self.at > SKIPPED:
            self.at = self.file.seek(position - 1)
        while self.at < position:
            passed = len(self.file.read(min(position - self.at, SKIPPED)))
            if not passed:
                raise tarfile.ReadError("unexpected end of data")
            self.at += passed


def _check_end(stream: _Stream, position: int) -> None:
    """Two zero blocks end a tar, and zeros only follow; anything else means lost samples."""
    rest = stream.last if stream.at > position else b""
    zeros = 0
    while True:
        if any(rest):
            raise tarfile.ReadError(
                f"damaged header, or another tar joined on, near byte {position + zeros}; wanted zeros to the end"
            )
        zeros += len(rest)
        rest = stream.file.read(SKIPPED)
        if not rest:
            break
    if zeros < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"cut off at byte {position + zeros}: the end mark of a tar is missing")


class _Order(Exception):
    """The tar is whole, but its members do not make samples."""


def _samples(file: io.BufferedReader) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(fields, why it cannot be read if so, text to show) of each sample. Members are read as they come."""
    seen: dict[str, str] = {}  # key -> its first member; the oldest go
    for key, members in groupby(iter_members(file), lambda member: member[0]):
        fields: dict[str, Any] = {}
        extensions: set[str] = set()
        fault = ("", "")
        size = 0
        for _, extension, info, read in members:
            where = f"member {info.name!r}"
            if not extensions and key in seen:
                raise _Order(
                    f"{where} at byte {info.offset_data}: a sample of this key was there before, with {seen[key]!r}, "
                    f"and others came between. {ADJACENT}"
                )
            seen.setdefault(key, info.name)
            if fault[0]:
                continue
            if extension in extensions:
                raise _Order(f"{where} comes twice, again at byte {info.offset_data}")
            extensions.add(extension)
            data = b""
            try:
                size += tarfile.BLOCKSIZE  # of members that are not kept, only their number counts
                if info.issparse():
                    raise ValueError("is a sparse file; wanted plain members, pack it again")
                if size + info.size <= MAX_RECORD:
                    data = read()
                    new = _fields(extension, data)
                    size += 0 if NotText in map(type, new.values()) else info.size
                elif size > MAX_RECORD or extension.rpartition(".")[2] in ("json", "txt"):
                    raise ValueError(f"of {info.size} bytes, which makes a sample of {TOO_LONG}")
                else:
                    new = {extension: NotText(f"of {info.size} bytes; wanted at most {MAX_RECORD >> 20} MiB")}
                if twice := sorted(new.keys() & fields.keys()):
                    raise ValueError(f"field {twice[0]!r} comes twice")
                fields |= new
            except ValueError as error:
                fault = (f"{info.name}: {error}", excerpt(data))
        if len(seen) > KEYS:
            del seen[next(iter(seen))]
        yield fields, *fault


def _fields(extension: str, data: bytes) -> dict[str, Any]:
    """What one member adds to its sample. Raises `ValueError`."""
    name, _, ending = extension.rpartition(".")
    if ending == "json":
        value = json_of(data)
        if name:
            return {name: value}
        if not isinstance(value, dict):
            raise ValueError(f"JSON is {type(value).__name__}; wanted an object")
        return value
    try:
        text = text_of(data)
        if "\0" in text:
            raise ValueError("holds NUL bytes")
    except ValueError as error:
        if ending == "txt":
            raise
        return {extension: NotText(str(error))}
    return {extension.removesuffix(".txt"): text}
