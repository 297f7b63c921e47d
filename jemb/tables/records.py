"""What a reader gives: rows and rows that cannot be read, each with its place."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

EXCERPT = 200
"""Characters of a bad row that are shown."""
MAX_RECORD = 64 << 20
"""Bytes of the longest row, line or member of an archive that any reader takes: no file can fill the memory."""
MAX_VALUES = 1 << 22
"""Commas in a JSON value of some size: each may stand for an object of 64 bytes."""
TOO_LONG = f"more than {MAX_RECORD >> 20} MiB"
BOM = b"\xef\xbb\xbf"
"""Some programs begin a UTF-8 file with this mark; files joined after that have it in the middle."""

_COLON = re.compile(rb'"\s*:')
"""What ends each key, and little else."""

Record = tuple[int, dict[str, Any]]
"""(line in a text file, else number of the row, from 1; its fields). A plain tuple: there are millions of them."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be read. line: as in `Record`; text: its start; rest_lost: the file breaks off here."""

    line: int
    reason: str
    text: str = ""
    rest_lost: bool = False


@dataclass(frozen=True, slots=True)
class NotText:
    """In the place of a field's value that is bytes and no text, an image perhaps. reason: why it is none."""

    reason: str


def excerpt(value: str | bytes, length: int = EXCERPT) -> str:
    """The start of `value` as text that can be written anywhere."""
    text = value[: length * 4].decode(errors="replace") if isinstance(value, bytes) else value
    return text[:length].encode(errors="replace").decode()


def text_of(data: bytes) -> str:
    """`data` as UTF-8, without a byte order mark. Raises `ValueError`, saying where it is none."""
    try:
        return data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start}") from None


def json_of(data: bytes) -> Any:
    """The JSON value in `data`. Raises `ValueError`, saying what is wrong with it.

    pydantic's parser is five times as fast as Python's. It accepts nothing that Python's refuses and gives the same
    values (NaN, integers of any size), so what it refuses is asked of Python's: that knows the reason, or finds it
    legal after all (half a surrogate pair, deep nesting). Both take the last of equal keys, which nobody meant.
    """
    if len(data) > MAX_RECORD:
        raise ValueError(TOO_LONG)
    if len(data) > MAX_VALUES and data.count(b",") > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        value = from_json(data)
    except ValueError:
        value = _python_json(text_of(data))
    if type(value) is dict and _may_repeat(data, value):
        _python_json(text_of(data), object_pairs_hook=_each_once)
    return value


def _may_repeat(data: bytes, value: dict[str, Any]) -> bool:
    """Whether a key may come twice, by quotes and colons; to look for sure costs ten times the reading."""
    texts = len(value) + sum(type(item) is str for item in value.values())
    return data.count(b'"') != 2 * texts and len(_COLON.findall(data)) > len(value)


def _python_json(text: str, **options: Any) -> Any:
    try:
        return json.loads(text, **options)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {excerpt(twice)!r} comes twice")
