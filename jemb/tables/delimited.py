"""CSV and TSV: a header, then rows; plain, `.gz` or `.zst`.

CSV is quoted as RFC 4180 says, and a quoted cell may hold commas and line ends. TSV knows no quoting: a tab ends a
cell, a line end ends a row, and a quote is a character.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence

from jemb.core.errors import InputError
from jemb.tables.records import MAX_RECORD, TOO_LONG, Bad, Record, excerpt
from jemb.tables.streams import Damaged, Lines, open_data, refuse_foreign

log = logging.getLogger(__name__)

BOM = "\ufeff"
MAX_SWALLOWED = 100_000
"""Lines that an unclosed quote may swallow; more, and nobody knows what the file holds."""
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
            for line, last, cells in rows(Lines(file)):
                if not header:
                    header = _header(f"{place}: line {line}", cells)
                elif isinstance(cells, Bad):
                    yield cells
                elif wrong := _fault(cells, header, kind):
                    text = excerpt("\t".join(cells))
                    # A stray quote may have joined lines to a row of another width: each counts as a lost row.
                    for number in range(line, (line if len(cells) == len(header) else last) + 1):
                        yield Bad(number, wrong + (f"; it began in line {line}" if number > line else ""), text)
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


def _tsv_rows(lines: Lines) -> Iterator[tuple[int, int, list[str] | Bad]]:
    """(first line, last line, cells) of each row."""
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_RECORD:
            yield number, number, Bad(number, f"row of {TOO_LONG}", excerpt(line))
        elif line.strip(b" \r"):
            # Bytes that are not UTF-8 come through as lone surrogates, so that they spoil their own row only.
            text = line.decode(errors="surrogateescape").removesuffix("\r")
            yield number, number, _without_marks(text.split("\t"))


def _csv_rows(lines: Lines) -> Iterator[tuple[int, int, list[str] | Bad]]:
    """As `_tsv_rows`."""
    feed = _Feed(lines)
    rows = csv.reader(feed, strict=True)
    while True:
        after_cut = feed.is_cut
        start, feed.size, feed.most = feed.number + 1, 0, feed.number + MAX_SWALLOWED
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f'bad quoting after line {start - 1} ({error}); a quote in a quoted text is doubled: "a ""b"""'
            if feed.size > MAX_RECORD and feed.number == start:
                reason = f"row of {TOO_LONG}"
            elif feed.size > MAX_RECORD or feed.number > feed.most:
                yield start, start, Bad(start, f"{reason}; a row without an end", feed.first, rest_lost=True)
                return
            # An unclosed quote swallows lines: each of them is a lost row, and counts as one.
            for line in range(start, max(start, feed.number) + 1):
                yield line, line, Bad(line, reason, feed.first if line == start else "")
            continue
        if cells and (after_cut or feed.is_cut):
            reason = "a carriage return in a cell without quotes cuts the row"
            yield start, start, Bad(start, reason, excerpt("\t".join(cells)))
        elif cells:
            yield start, feed.number, _without_marks(cells)


class _Feed:
    """Lines as Python's csv wants them. number: of those given. first: the start of the row's first line. is_cut: the
    last one ends in a single carriage return, and the first line does not, as on old Macs. Set where a row begins:
    size, of it so far, to 0; most, the number of its last line."""

    def __init__(self, lines: Lines) -> None:
        self._lines = iter(lines)
        self._rest: list[str] = []
        self.number = 0
        self.first = ""
        self.is_cut = False
        self._mac = False
        self.size = 0
        self.most = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._rest:
            text = next(self._lines).decode(errors="surrogateescape") + "\n"
            if not self.size:
                text = text.removeprefix(BOM)
            self._rest = re.split(r"(?<=\r)(?!\n)", text)[::-1] if "\r" in text else [text]
            self._mac = self._mac or (not self.number and len(self._rest) > 1)
        text = self._rest.pop()
        self.is_cut = not self._mac and text.endswith("\r")
        self.number += 1
        if not self.size:
            self.first = excerpt(text.rstrip("\r\n"))
        self.size += len(text)
        if self.size > MAX_RECORD:
            raise csv.Error(TOO_LONG)
        if self.number > self.most:
            raise csv.Error(f"more than {MAX_SWALLOWED} lines")
        return text


def _without_marks(cells: list[str]) -> list[str]:
    """Without the byte order marks that files joined or pasted leave behind."""
    text = "".join(cells)
    return cells if text.isascii() or BOM not in text else [cell.removeprefix(BOM) for cell in cells]


def _looks_quoted(cell: str) -> bool:
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
