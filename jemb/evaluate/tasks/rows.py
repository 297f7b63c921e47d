"""The rows of a task's file, each with its place, so that every complaint can name it.

Before: `jemb.tables` reads the formats. After: `pairs.py`, `ranking.py` and `beir.py` take the fields
they know; further fields are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.core.text import listed_texts
from jemb.tables.delimited import separator_hint
from jemb.tables.records import Bad
from jemb.tables.whole import kind_of, read_table

FORMATS = ".jsonl, .tsv, .csv (each also .gz or .zst) or .parquet"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `place` is `FILE, line N` (from 1; `row N` in Parquet)."""

    place: str
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """The text in field `name`, maybe empty; `InputError` when it is missing or not a text."""
        return self._text(name, self._value(name), "a text")

    def texts(self, name: str) -> list[str]:
        """The texts in field `name`, a list of them, maybe empty, or one; a list may be written as JSON, which is how
        a table holds it. `InputError` when it is neither."""
        value = self._value(name)
        items = value if isinstance(value, list) else (isinstance(value, str) and listed_texts(value)) or [value]
        return [self._text(name, item, "a list of texts") for item in items]

    def _text(self, name: str, value: Any, wanted: str) -> str:
        if not isinstance(value, str):
            raise InputError(f"{self.place}: field '{name}' is {value!r}; wanted {wanted}")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
                raise InputError(f"{self.place}: field '{name}' is not valid Unicode ({error})") from None
        return value

    def number(self, name: str) -> float:
        """The finite number in field `name`; one written as text counts, as in TSV every number is."""
        value = self._value(name)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{self.place}: field '{name}' is {value!r}; wanted a finite number")
        return number

    def _value(self, name: str) -> Any:
        if name not in self.fields:
            known = [str(field) for field in self.fields]
            raise InputError(
                f"{self.place}: no field '{name}'; the fields there: {', '.join(known) or 'none'}"
                + (separator_hint(known) or suggest(name, known))
            )
        return self.fields[name]


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of `path`, whose format its name tells; blank lines are passed over.

    `InputError` for a missing or damaged file, a line that is not what the format wants, a file without rows.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; wanted a file ({FORMATS})")
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{suggest(path.name, beside)}")
    found = kind_of(path.name)
    if found is None:
        raise InputError(f"{path}: unknown format; wanted {FORMATS}")
    unit = "row" if found[0] == "parquet" else "line"
    rows = 0
    for item in read_table(str(path), found[0]):
        if isinstance(item, Bad):
            if item.rest_lost:
                raise InputError(f"{path}: damaged after {unit} {item.line - 1} ({item.reason})")
            shown = f": {item.text[:80]!r}" if item.text else ""
            raise InputError(f"{path}, {unit} {item.line}: {item.reason}{shown}")
        rows += 1
        yield Row(f"{path}, {unit} {item[0]}", item[1])
    if not rows:
        raise InputError(f"{path}: no rows in it")
