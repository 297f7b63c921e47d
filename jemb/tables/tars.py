"""Tars made by others: their members checked for damage, and their samples as the library webdataset groups them.

After: `whole.py` gives the samples as rows; `shards/adopt.py` takes tars over as they are. A tar is read once from
begin to end, so that it may be packed or far away. Nothing is unpickled: JSON and text are decoded.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from jemb.core.errors import InputError
from jemb.tables.places import is_pipe
from jemb.tables.records import MAX_RECORD, TOO_LONG, Bad, Damaged, NotText, Record, excerpt, json_of, text_of
from jemb.tables.streams import open_data

BLOCK = 1 << 14
"""Bytes read at once: of a packed tar that breaks off, so many are lost."""
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar. offset: byte of its payload. read: its payload, before the next member is asked for."""

    name: str
    offset: int
    size: int
    sparse: bool
    read: Callable[[], bytes]

    @property
    def extension(self) -> str:
        """All after the first dot of its last component, as webdataset has it."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


class _Header(tarfile.TarInfo):
    """Python's tarfile stops without a word at a damaged header and at a cut between two members; this does not."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"damaged or cut off after byte {archive.offset} ({error})") from None


def iter_members(file: io.BufferedReader) -> Iterator[Member]:
    """The members of a tar that belong to samples, in order. `file` is read forward.

    Raises `tarfile.TarError` naming the byte when the tar is damaged or cut off, or another tar is joined on.
    """
    with tarfile.open(fileobj=file, mode="r|", bufsize=BLOCK, tarinfo=_Header, errorlevel=2) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every member in memory
            if info.isreg() and not _META.match(info.name):
                payload = cast(io.BufferedReader, archive.extractfile(info))
                yield Member(info.name, info.offset_data, info.size, info.issparse(), payload.read)
        end = archive.offset
        while rest := archive.fileobj.read(BLOCK):
            if any(rest):
                raise tarfile.ReadError(f"another tar joined on, after byte {end}; wanted zeros to the end")


def read_tar(place: str) -> Iterator[Record | Bad]:
    """The samples of a WebDataset tar as rows.

    `KEY.json`: its object's fields. `KEY.NAME.json`: field NAME with that JSON value. Others: a field named by the
    extension, less a final `.txt` (`KEY.query.txt` gives "query"), with the text in it, or `NotText`.
    Raises `InputError` when a member of a sample comes twice.
    """
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys

    number = 0
    try:
        with gopen(place) if is_pipe(place) else open_data(place) as file:
            members = (
                {"fname": member.name, "data": member.read() if member.size <= MAX_RECORD else None, "__url__": place}
                for member in iter_members(file)
            )
            for number, sample in enumerate(group_by_keys(members), 1):
                yield _row(number, sample)
    except (Damaged, tarfile.TarError) as error:
        yield Bad(number + 1, str(error), rest_lost=True)
    except ValueError as error:
        raise InputError(f"{place}: {error.args[0]}") from None


def _row(number: int, sample: dict[str, Any]) -> Record | Bad:
    fields: dict[str, Any] = {}
    for extension, data in sample.items():
        if extension.startswith("__"):
            continue
        try:
            new = {extension: NotText(TOO_LONG)} if data is None else _fields(extension, data)
            if twice := sorted(new.keys() & fields.keys()):
                raise ValueError(f"field {twice[0]!r} comes twice")
        except ValueError as error:
            return Bad(number, f"{sample['__key__']}.{extension}: {error}", excerpt(data))
        fields |= new
    return number, fields


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
