"""Raw files as records: one reader for each format, all giving `Record` or `Unreadable` in file order.

After: `sources.py` makes samples of records. Bad rows never raise here: they are part of what a file holds. A file
that breaks off (truncated gzip, damaged tar or Parquet) ends with an `Unreadable` that says the rest is lost.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jemb.errors import InputError
from jemb.shards import UnreadableSample, read_tar_samples

EXCERPT = 200
"""Characters of a bad row that are shown."""
MAX_CELL = 1 << 24
"""Characters in one cell of a CSV file; more is an unclosed quote."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file. line: its line in a text file (from 1), else its number among the file's rows (from 1)."""

    file: Path
    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be used. text: its start. rest_lost: the file breaks off here, with unknown loss."""

    file: Path
    line: int
    reason: str
    text: str = ""
    rest_lost: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file.name, "line": self.line, "reason": self.reason, "text": self.text}


Reader = Callable[[Path], Iterator[Record | Unreadable]]


def excerpt(value: str | bytes) -> str:
    """The start of a bad row as text that can be written anywhere."""
    text = value[: EXCERPT * 4].decode(errors="replace") if isinstance(value, bytes) else value
    return text[:EXCERPT].encode(errors="replace").decode()


def read_jsonl(path: Path) -> Iterator[Record | Unreadable]:
    """A JSON object a line, plain or gzip; empty lines are skipped."""
    number = 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_record(path, number, line)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield Unreadable(path, number + 1, f"damaged or truncated gzip: {error}", rest_lost=True)


def _json_record(path: Path, number: int, line: bytes) -> Record | Unreadable:
    try:
        # A byte order mark is no part of the text.
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return Unreadable(path, number, f"not UTF-8: byte {error.start}", excerpt(line))
    except (ValueError, RecursionError) as error:
        return Unreadable(path, number, f"not JSON: {error}", excerpt(line))
    if not isinstance(value, dict):
        return Unreadable(path, number, f"JSON is {type(value).__name__}; wanted an object", excerpt(line))
    return Record(path, number, value)


def read_csv(path: Path) -> Iterator[Record | Unreadable]:
    """Comma-separated with a header, quoted as RFC 4180 says."""
    return _read_table(path, ",")


def read_tsv(path: Path) -> Iterator[Record | Unreadable]:
    """Tab-separated with a header, quoted like CSV."""
    return _read_table(path, "\t")


def _read_table(path: Path, delimiter: str) -> Iterator[Record | Unreadable]:
    csv.field_size_limit(MAX_CELL)
    # Bytes that are not UTF-8 come through as lone surrogates, so that they spoil their own row only.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header = _header(path, rows)
        while True:
            start = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                # An unclosed quote swallows lines: each of them is a lost row, and counts as one.
                for line in range(start, max(start, rows.line_num) + 1):
                    yield Unreadable(path, line, f"bad quoting in the row from line {start}: {error}")
                continue
            text = delimiter.join(cells)
            if not cells:
                continue
            if not _is_utf8(text):
                yield Unreadable(path, start, "not UTF-8", excerpt(text))
            elif len(cells) != len(header):
                reason = f"{len(cells)} columns; the header has {len(header)}"
                yield Unreadable(path, start, reason, excerpt(text))
            else:
                yield Record(path, start, dict(zip(header, cells, strict=True)))


def _header(path: Path, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise InputError(f"{path}: line 1: the header cannot be read ({error})") from None
    if not _is_utf8("".join(header)):
        raise InputError(f"{path}: line 1: the header is not UTF-8")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: line 1: column {twice[0]!r} comes twice; wanted names that differ")
    return header


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_parquet(path: Path) -> Iterator[Record | Unreadable]:
    """A row a record. Binary columns are taken for UTF-8, as old writers leave texts so."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(path, number, {name: _decoded(value) for name, value in fields.items()})
    except (pyarrow.ArrowException, OSError) as error:
        reason = f"damaged or truncated Parquet: {excerpt(str(error))}"
        yield Unreadable(path, number + 1, reason, rest_lost=True)


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def read_tar(path: Path) -> Iterator[Record | Unreadable]:
    """A WebDataset sample a record: the fields of its `.json` member, and its text members by extension."""
    number = 0
    try:
        for number, item in enumerate(read_tar_samples(path), 1):
            if isinstance(item, UnreadableSample):
                yield Unreadable(path, number, f"{item.member}: {item.reason}", excerpt(item.text))
            else:
                yield Record(path, number, item[1])
    except InputError as error:
        yield Unreadable(path, number + 1, str(error), rest_lost=True)


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".tar": read_tar,
}
"""Reader by file name ending."""
