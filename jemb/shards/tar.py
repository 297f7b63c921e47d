"""Tars made by others: their members checked for truncation, and their samples as WebDataset groups them.

After: `prepare/source/sources.py` reads samples of any layout from here; `adopt.py` takes tars over as they are.
Nothing is unpickled: JSON and text are decoded, other members are ignored.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.errors import InputError

# As in webdataset.tariterators: key = path up to the first dot of the last component; `__name__` is metadata.
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar that belongs to a sample. name: key.extension; offset: byte of its payload."""

    name: str
    key: str
    extension: str
    offset: int
    size: int
    sparse: bool


@dataclass(frozen=True, slots=True)
class UnreadableSample:
    """A sample of a tar that cannot be decoded. offset: byte of the payload; text: its start, to show."""

    key: str
    member: str
    offset: int
    reason: str
    text: str


def iter_members(tar: Path) -> Iterator[Member]:
    """The members of `tar` that belong to samples, in order.

    Raises `InputError` naming file and byte when the tar is compressed, damaged or cut off. Python's tarfile
    stops without a word at a damaged header and at a cut between two members, so the end mark is looked for.
    """
    with tar.open("rb") as file:
        magic = file.read(6)
        kind = next((kind for start, kind in _COMPRESSED.items() if magic.startswith(start)), None)
        if kind:
            raise InputError(f"{tar}: compressed with {kind}; wanted a plain tar, unpack it first")
        file.seek(0)
        position = 0
        try:
            with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep every member in memory
                    position = archive.offset
                    found = _KEY.fullmatch(info.name)
                    if info.isreg() and found and not _META.match(info.name):
                        key, extension = found.groups()
                        yield Member(info.name, key, extension.lower(), info.offset_data, info.size, info.issparse())
                position = archive.offset
        except (tarfile.TarError, UnicodeDecodeError) as error:
            raise InputError(f"{tar}: damaged or cut off after byte {position} ({error})") from None
        _check_end(tar, position)


def read_tar_samples(tar: Path) -> Iterator[tuple[str, dict[str, Any]] | UnreadableSample]:
    """(key, fields) of each sample in any WebDataset tar, in order; `UnreadableSample` for a damaged one.

    `KEY.json`: its object's fields. `KEY.NAME.json`: field NAME with that JSON value. Other UTF-8 text: a
    field named by the extension, less a final `.txt` (`KEY.query.txt` gives "query"). The rest is ignored.
    Raises `InputError` for a damaged, cut off or compressed tar, and when a key comes twice.
    """
    seen: set[str] = set()
    with tar.open("rb") as file:
        for group in _groups(iter_members(tar)):
            key = group[0].key
            if key in seen:
                raise InputError(f"{tar}: key {key!r} comes twice, again at byte {group[0].offset}")
            seen.add(key)
            yield _decode(tar, group, [_payload(tar, file, member) for member in group])


def _groups(members: Iterator[Member]) -> Iterator[list[Member]]:
    group: list[Member] = []
    for member in members:
        if group and member.key != group[0].key:
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def _payload(tar: Path, file: Any, member: Member) -> bytes:
    if member.sparse:
        raise InputError(f"{tar}: member {member.name!r} is a sparse file; wanted plain members, pack it again")
    file.seek(member.offset)
    data: bytes = file.read(member.size)
    if len(data) != member.size:
        raise InputError(
            f"{tar}: cut off at byte {member.offset + len(data)} in member {member.name!r}; "
            f"wanted {member.size} bytes from byte {member.offset}"
        )
    return data


def _decode(tar: Path, group: list[Member], payloads: list[bytes]) -> tuple[str, dict[str, Any]] | UnreadableSample:
    fields: dict[str, Any] = {}
    extensions: set[str] = set()
    for member, data in zip(group, payloads, strict=True):
        if member.extension in extensions:
            raise InputError(f"{tar}: member {member.name!r} comes twice, again at byte {member.offset}")
        extensions.add(member.extension)
        try:
            new = _fields(member.extension, data)
            twice = sorted(new.keys() & fields.keys())
            if twice:
                raise ValueError(f"field {twice[0]!r} comes twice")
        except (ValueError, RecursionError) as error:
            text = data[:200].decode(errors="replace")
            return UnreadableSample(member.key, member.name, member.offset, str(error), text)
        fields.update(new)
    return group[0].key, fields


def _fields(extension: str, data: bytes) -> dict[str, Any]:
    """What one member adds to its sample; `ValueError` for bad JSON."""
    if extension == "json" or extension.endswith(".json"):
        value = json.loads(data.decode())
        name = extension.removesuffix("json").removesuffix(".")
        if name:
            return {name: value}
        if not isinstance(value, dict):
            raise ValueError(f"JSON is {type(value).__name__}; wanted an object")
        return value
    if b"\0" in data:
        return {}
    try:
        return {extension.removesuffix(".txt"): data.decode()}
    except UnicodeDecodeError:
        return {}


def _check_end(tar: Path, position: int) -> None:
    """Two zero blocks end a tar, and zeros only follow; anything else means lost samples."""
    with tar.open("rb") as file:
        file.seek(position)
        mark = file.read(2 * tarfile.BLOCKSIZE)
        if len(mark) < 2 * tarfile.BLOCKSIZE and not any(mark):
            raise InputError(f"{tar}: cut off at byte {position + len(mark)}: the end mark of a tar is missing")
        while mark:
            if any(mark):
                raise InputError(
                    f"{tar}: damaged header, or another tar joined on, near byte {position}; wanted zeros to the end"
                )
            position += len(mark)
            mark = file.read(1 << 20)
