"""CSV and TSV: a header, then rows quoted as RFC 4180 says; plain, `.gz` or `.zst`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from jemb.errors import InputError
from jemb.tables.records import Bad, Record, excerpt
from jemb.tables.streams import Damaged, open_data, refuse_utf16

DELIMITERS = {"csv": ",", "tsv": "\t"}
MAX_CELL = 1 << 24
"""Characters in one cell; more is an unclosed quote. Python's own limit, 131,072, cuts long passages."""
csv.field_size_limit(MAX_CELL)


def read_delimited(place: str, delimiter: str) -> Iterator[Record | Bad]:
    """The rows below the header, each with the line it begins at. Raises `InputError` for a header that cannot be."""
    start = 1
    with open_data(place) as file:
        rows = csv.reader(_text(file), delimiter=delimiter, strict=True)
        try:
            refuse_utf16(place, file)
            header = _header(place, rows)
            while True:
                start = rows.line_num + 1
                try:
                    cells = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    reason = (
                        f'bad quoting after line {start - 1} ({error}); a quote in a quoted text is doubled: "a ""b"""'
                    )
                    # An unclosed quote swallows lines: each of them is a lost row, and counts as one.
                    for line in range(start, max(start, rows.line_num) + 1):
                        yield Bad(line, reason)
                    continue
                text = delimiter.join(cells)
                if not cells:
                    continue
                if not _is_utf8(text):
                    yield Bad(start, "not UTF-8", excerpt(text))
                elif len(cells) != len(header):
                    yield Bad(start, f"{len(cells)} fields; the header has {len(header)}", excerpt(text))
                else:
                    yield start, dict(zip(header, cells, strict=True))
        except Damaged as error:
            yield Bad(start, str(error), rest_lost=True)


def read_header(place: str, delimiter: str) -> list[str]:
    """The names in the first line; none for an empty file. Raises `InputError`, also when the file is damaged there."""
    with open_data(place) as file:
        try:
            refuse_utf16(place, file)
            return _header(place, csv.reader(_text(file), delimiter=delimiter, strict=True))
        except Damaged as error:
            raise InputError(f"{place}: {error}") from None


def separator_hint(header: Sequence[str]) -> str:
    """What to say of a header that is one name because something else stands between the names; mostly nothing."""
    found = next((mark for mark in ";\t|," if mark in header[0]), None) if len(header) == 1 else None
    return f"; it has {found!r} between its names: wanted ',' in .csv, a tab in .tsv" if found else ""


def _text(file: io.BufferedReader) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 come through as lone surrogates, so that they spoil their own row only.
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")


def _header(place: str, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise InputError(f"{place}: line 1: the header cannot be read ({error})") from None
    if not _is_utf8("".join(header)):
        raise InputError(f"{place}: line 1: the header is not UTF-8")
    refuse_equal_names(f"{place}: line 1", header)
    return header


def refuse_equal_names(where: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} comes twice; wanted names that differ")


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
