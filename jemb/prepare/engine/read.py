"""The source into pieces: each part of it (a file, or a stretch of one) is read once, by any worker.

Before: `parts.py` cuts the source and makes rows of it. After: `table.py` gives the rows to the stages. A
part does not know how many records come before it, so it counts from 0, and the sums are added here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from jemb.core.files import write_atomic
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import PIECE_BYTES, PIECE_ROWS, PIECE_SCHEMA, Piece, Table, write_table
from jemb.prepare.source.check import check_names
from jemb.prepare.source.parts import Part, Summary, Unreadable, parts, read_part
from jemb.prepare.source.record_fields import Row
from jemb.prepare.source.sources import Source

SERIAL_BYTES = 8 << 20
"""Bytes of input below which starting other processes takes longer than reading."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was in a source. triplets: rows with hard negatives. unreadable: file, line, reason and text of each record
    that is no row, in order. broken: the one at which a file breaks off, if one does."""

    table: Table
    triplets: int
    unreadable: list[dict[str, Any]]
    broken: dict[str, Any] | None

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.table.pieces)


def read(source: Source, job: Job) -> Reading:
    """All of `source`. Raises `InputError` when no record has the field of the query or of the positive: a wrong name,
    not bad rows."""
    todo = parts(source)
    function = partial(_read_part, source, job.folder, PIECE_ROWS)
    sizes = [part.size for part in todo]
    results = job.map("read", function, todo, sizes=sizes, unit="B", serial_below=SERIAL_BYTES)
    check_names(source, sum((Counter(result["names"]) for result in results), Counter()))
    pieces: list[Piece] = []
    unreadable: list[dict[str, Any]] = []
    start = 0
    lines: Counter[str] = Counter()
    for part, result in zip(todo, results, strict=True):
        for piece in result["pieces"]:
            path = job.folder / piece["file"]
            pieces.append(Piece(path, start + piece["first"], piece["span"], piece["rows"]))
        if result["unreadable"]:
            text = _unreadable_file(job.folder, part).read_text()
            found = map(json.loads, text.splitlines())
            unreadable += [row | {"line": row["line"] + lines[part.path]} for row in found]
        start += result["records"]
        lines[part.path] += result["lines"]
    broken = next((row for row in unreadable if row["rest_lost"]), None)
    listed = [{name: value for name, value in row.items() if name != "rest_lost"} for row in unreadable]
    return Reading(Table(tuple(pieces)), sum(result["triplets"] for result in results), listed, broken)


def _read_part(source: Source, folder: Path, piece_rows: int, part: Part) -> dict[str, Any]:
    """The rows of a part as piece files, and its unreadable records as JSON lines."""
    pieces: list[dict[str, Any]] = []
    unreadable: list[Unreadable] = []
    summary = Summary()
    triplets = 0

    def rows() -> Iterator[Row]:
        nonlocal summary
        for item in read_part(part, source.fields, source.constants):
            if isinstance(item, Row):
                yield item
            elif isinstance(item, Unreadable):
                unreadable.append(item)
            else:
                summary = item

    for number, piece in enumerate(_pieces(rows(), piece_rows)):
        first, last = piece[0].number, piece[-1].number
        triplets += sum(bool(row.negatives) for row in piece)
        name = f"part-{part.number:06d}-{number:06d}.arrow"
        write_table(folder / name, _columns(piece, first))
        pieces.append({"file": name, "first": first, "span": last + 1 - first, "rows": len(piece)})
    lines = [json.dumps(row.to_json() | {"rest_lost": row.rest_lost}) + "\n" for row in unreadable]
    if lines:
        write_atomic(_unreadable_file(folder, part), "".join(lines))
    counts = {"records": summary.records, "lines": summary.lines, "names": dict(summary.names)}
    return {"pieces": pieces, "triplets": triplets, "unreadable": len(lines), **counts}


def _pieces(rows: Iterator[Row], most: int) -> Iterator[list[Row]]:
    """Runs of `most` rows or `PIECE_BYTES` characters, whichever comes first."""
    piece: list[Row] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row.query) + len(row.positive) + sum(map(len, row.negatives)) + len(row.extra)
        if len(piece) == most or size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _columns(rows: list[Row], first: int) -> pa.Table:
    columns = [
        [row.number - first for row in rows],
        [row.query for row in rows],
        [row.positive for row in rows],
        [list(row.negatives) for row in rows],
        [row.extra for row in rows],
    ]
    return pa.table(columns, schema=PIECE_SCHEMA)


def _unreadable_file(folder: Path, part: Part) -> Path:
    return folder / f"part-{part.number:06d}.unreadable.jsonl"
