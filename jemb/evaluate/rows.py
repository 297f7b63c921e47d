"""The rows of a task's file, each with its place, so that every complaint can name it.

After: `sts.py`, `negation.py` and `beir.py` take the fields they know; further fields are ignored.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from jemb.config import suggest
from jemb.errors import InputError

FORMATS = ".jsonl, .tsv, .csv (each also .gz) or .parquet"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `place` is `FILE, line N` (from 1; `row N` in Parquet)."""

    place: str
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """The text in field `name`, maybe empty; `InputError` when it is missing or not a text."""
        value = self._value(name)
        if not isinstance(value, str):
            raise InputError(f"{self.place}: field '{name}' is {value!r}; wanted a text")
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
                + suggest(name, known)
            )
        return self.fields[name]


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of `path`, whose format its name tells; blank lines are passed over.

    `InputError` for a missing or damaged file, a line that is not what the format wants, a file without rows.
    """
    check_file(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    readers = {
        ".jsonl": _read_json_lines,
        ".tsv": _read_table,
        ".csv": _read_table,
        ".parquet": _read_parquet,
    }
    if kind not in readers or (kind == ".parquet" and suffixes[-1] == ".gz"):
        raise InputError(f"{path}: unknown format; wanted {FORMATS}")
    rows = 0
    for row in readers[kind](path):
        rows += 1
        yield row
    if not rows:
        raise InputError(f"{path}: no rows in it")


def check_file(path: Path) -> None:
    """`InputError` unless `path` is a file; a file of nearly that name beside it is suggested."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; wanted a file ({FORMATS})")
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{suggest(path.name, beside)}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of lines not blank; `InputError` where not UTF-8 or cut off."""
    number = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8 ({error})") from None
                if text.strip():
                    yield number, text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: damaged after line {number} ({error})") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_json_lines(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{place}: not JSON ({error}): {line[:80]!r}") from None
        if not isinstance(value, dict):
            raise InputError(f"{place}: is {line[:80]!r}; wanted a JSON object with named fields")
        yield Row(place, value)


def _read_table(path: Path) -> Iterator[Row]:
    """Comma- or tab-separated with a header line; a field that holds quotes, tabs or line ends is quoted."""
    line = 0
    with _open(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
        separator = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
        table = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            for fields in table:
                line = table.line_num
                place = f"{path}, line {line}"
                if None in fields or None in fields.values():
                    wanted = len(table.fieldnames or ())
                    seen = sum(value is not None for name, value in fields.items() if name is not None)
                    seen += len(fields.get(None) or ())
                    raise InputError(f"{place}: {seen} fields; the header has {wanted}")
                yield Row(place, fields)
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after line {line}: not UTF-8 ({error})") from None
        except csv.Error as error:
            hint = 'quote a field that holds quotes, and double them: "say ""hi"""'
            raise InputError(f"{path}, after line {line}: {error}; {hint}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: damaged after line {line} ({error})") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    row += 1
                    yield Row(f"{path}, row {row}", fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged after row {row} ({error})") from None
