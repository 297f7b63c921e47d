"""What a reader gives: rows and rows that cannot be read, each with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXCERPT = 200
"""Characters of a bad row that are shown."""

Record = tuple[int, dict[str, Any]]
"""(line in a text file, else number of the row, from 1; its fields). A plain tuple: there are millions of them."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be read. line: as in `Record`; text: its start; rest_lost: the file breaks off here."""

    line: int
    reason: str
    text: str = ""
    rest_lost: bool = False


def excerpt(value: str | bytes, length: int = EXCERPT) -> str:
    """The start of `value` as text that can be written anywhere."""
    text = value[: length * 4].decode(errors="replace") if isinstance(value, bytes) else value
    return text[:length].encode(errors="replace").decode()
