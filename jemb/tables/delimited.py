"""CSV and TSV: a header, then rows; plain, `.gz` or `.zst`.

CSV is quoted as RFC 4180 says, and a quoted cell may hold commas and line ends. TSV knows no quoting: a tab ends a
cell, a line end ends a row, and a quote is a character.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from jemb.core.errors import InputError
from jemb.tables.records import MAX_RECORD, Bad, Damaged, Record, excerpt
from jemb.tables.streams import open_data

csv.field_size_limit(MAX_RECORD)  # Python's own limit, 131,072, cuts long passages


def read_delimited(place: str, kind: str) -> Iterator[Record | Bad]:
    """The rows below the header, each with the line it begins at. kind: csv or tsv.

    Raises `InputError` for a header that cannot be.
    """
    header: list[str] = []
    line = 1
    with open_data(place) as file:
        # Bytes that are not UTF-8 come through as lone surrogates, so that they spoil their own row only.
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        if kind == "tsv":
            rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            rows = csv.reader(text, strict=True)
        try:
            while True:
                line = rows.line_num + 1
                try:
                    cells = next(rows, None)
                except csv.Error as error:
                    if not header:
                        raise InputError(f"{place}: line {line}: the header cannot be read ({error})") from None
                    # An unclosed quote swallows the rows that follow, however many.
                    yield Bad(line, f"bad quoting after line {line - 1} ({error})", rest_lost=rows.line_num > line)
                    continue
                if cells is None:
                    return
                if not cells:
                    continue
                if not header:
                    header = _header(f"{place}: line {line}", cells)
                elif wrong := _fault(cells, header):
                    yield Bad(line, wrong, excerpt("\t".join(cells)))
                else:
                    yield line, dict(zip(header, cells, strict=True))
        except Damaged as error:
            yield Bad(line, str(error), rest_lost=True)


def separator_hint(header: Sequence[str]) -> str:
    """What to say of a header that is one name because something else stands between the names; mostly nothing."""
    found = next((mark for mark in ";\t|," if mark in header[0]), None) if len(header) == 1 else None
    return f"; it has {found!r} between its names: wanted ',' in .csv, a tab in .tsv" if found else ""


def refuse_equal_names(where: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} comes twice; wanted names that differ")


def _header(where: str, cells: list[str]) -> list[str]:
    if not _is_utf8("".join(cells)):
        raise InputError(f"{where}: the header is not UTF-8")
    refuse_equal_names(where, cells)
    return cells


def _fault(cells: list[str], header: list[str]) -> str:
    """What is wrong with a row, if anything."""
    if not _is_utf8("".join(cells)):
        return "not UTF-8"
    if len(cells) != len(header):
        return f"{len(cells)} fields; the header has {len(header)}"
    if "\0" in "".join(cells):
        return "holds NUL bytes"
    return "the header once more, as in files joined" if cells == header else ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
