"""CSV and TSV: a header, then rows; plain, `.gz` or `.zst`.

CSV is quoted as RFC 4180 says, and a quoted cell may hold commas and line ends. TSV knows no quoting: a tab ends a
cell, a line end ends a row, and a quote is a character.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence

from jemb.core.errors import InputError
from jemb.tables.records import MAX_RECORD, TOO_LONG, Bad, Record, excerpt
from jemb.tables.streams import Damaged, lines, open_data, refuse_foreign

log = logging.getLogger(__name__)

BOM = "\ufeff"
MAX_SWALLOWED = 100_000
"""Lines that one row may have; with more, nobody knows what the file holds."""
csv.field_size_limit(MAX_RECORD)  # Python's own limit, 131,072, cuts long passages


def read_delimited(place: str, kind: str) -> Iterator[Record | Bad]:
    """The rows below the header, each with the line it begins at. kind: csv or tsv.

    Raises `InputError` for a header that cannot be.
    """
    rows = _tsv_rows if kind == "tsv" else _csv_rows
    header: list[str] = []
    line = quoted = 0
    with open_data(place) as file:
        try:
            refuse_foreign(place, file)
            for line, last, cells in rows(file):
                if not header:
                    header = _header(f"{place}: line {line}", cells)
                elif isinstance(cells, Bad):
                    yield cells
                elif wrong := _fault(cells, header, kind):
                    # A stray quote may have joined lines to a row of another width: each counts as a lost row.
                    for number in range(line, (line if len(cells) == len(header) else last) + 1):
                        began = f"; it began in line {line}" if number > line else ""
                        yield Bad(number, wrong + began, excerpt("\t".join(cells)))
                else:
                    quoted += kind == "tsv" and any(map(_looks_quoted, cells))
                    yield line, dict(zip(header, cells, strict=True))
        except Damaged as error:
            yield Bad(line + 1, str(error), rest_lost=True)
    if quoted:
        log.warning(
            "%s: %d rows have cells quoted as in CSV; a .tsv knows no quoting, so the quotes are part of the texts",
            place, quoted,
        )  # fmt: skip


def separator_hint(header: Sequence[str]) -> str:
    """What to say of a header that is one name because something else stands between the names; mostly nothing."""
    found = next((mark for mark in ";\t|," if mark in header[0]), None) if len(header) == 1 else None
    return f"; it has {found!r} between its names: wanted ',' in .csv, a tab in .tsv" if found else ""


def refuse_equal_names(where: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} comes twice; wanted names that differ")


def _header(where: str, cells: list[str] | Bad) -> list[str]:
    if isinstance(cells, Bad):
        hint = separator_hint([cells.text]) if "," not in cells.text else ""
        raise InputError(f"{where}: the header cannot be read ({cells.reason}){hint}")
    if not _is_utf8("".join(cells)):
        raise InputError(f"{where}: the header is not UTF-8")
    refuse_equal_names(where, cells)
    return cells


def _fault(cells: list[str], header: list[str], kind: str) -> str:
    """What is wrong with a row, if anything."""
    text = "".join(cells)
    if not _is_utf8(text):
        return "not UTF-8"
    if "\0" in text:
        return "holds NUL bytes"
    if len(cells) != len(header):
        hint = "; in a .tsv no cell holds a tab or a line end, quoted or not" if kind == "tsv" and '"' in text else ""
        return f"{len(cells)} fields; the header has {len(header)}{hint}"
    if cells == header:
        return "the header once more, as in files joined"
    return ""


def _tsv_rows(file: io.BufferedReader) -> Iterator[tuple[int, int, list[str] | Bad]]:
    """(first line, last line, cells) of each row."""
    for number, line in enumerate(lines(file), 1):
        if len(line) > MAX_RECORD:
            yield number, number, Bad(number, f"row of {TOO_LONG}", excerpt(line))
        elif line.strip(b" \r"):
            yield number, number, _without_marks(_decoded(line).removesuffix("\r").split("\t"))


def _csv_rows(file: io.BufferedReader) -> Iterator[tuple[int, int, list[str] | Bad]]:
    """As `_tsv_rows`."""
    feed = _Feed(lines(file))
    rows = csv.reader(feed, strict=True)
    while True:
        start, feed.first, feed.text, feed.size = feed.number + 1, feed.number + 1, "", 0
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f'bad quoting after line {start - 1} ({error}); a quote in a quoted text is doubled: "a ""b"""'
            text = excerpt(feed.text)
            if feed.endless and feed.number > start:
                yield start, start, Bad(start, f"{reason}; a row without an end", text, rest_lost=True)
                return
            # A stray quote swallows lines: each of them is a lost row, and counts as one.
            for line in range(start, max(start, feed.number) + 1):
                yield line, line, Bad(line, f"row of {TOO_LONG}" if feed.endless else reason, text)
            continue
        if cells:
            yield start, feed.number, _without_marks(cells)


class _Feed:
    """Lines as Python's csv wants them. number: of those given; endless: the row did not end with the file, or where a
    row must. Set where a row begins: first, the number of its first line; text, that line, to ""; size, to 0."""

    def __init__(self, found: Iterator[bytes]) -> None:
        self._lines = found
        self.number = self.first = self.size = 0
        self.text = ""
        self.endless = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        self.number += line is not None
        self.size += len(line or b"")
        self.endless = line is None or self.size > MAX_RECORD or self.number - self.first >= MAX_SWALLOWED
        if line is None:
            raise StopIteration
        if self.endless:
            raise csv.Error(f"a row of {TOO_LONG}, or {MAX_SWALLOWED} lines")
        text = _decoded(line)
        if self.number == self.first:
            self.text = text = text.removeprefix(BOM)
        return text + "\n"


def _decoded(line: bytes) -> str:
    """Bytes that are not UTF-8 come through as lone surrogates, so that they spoil their own row only."""
    return line.decode(errors="surrogateescape")


def _without_marks(cells: list[str]) -> list[str]:
    """Without the byte order marks that files joined or pasted leave behind."""
    text = "".join(cells)
    return cells if text.isascii() or BOM not in text else [cell.removeprefix(BOM) for cell in cells]


def _looks_quoted(cell: str) -> bool:
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
