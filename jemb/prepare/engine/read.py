"""The source into pieces: each part of it (a file, or a stretch of one) is read once, by any worker.

Before: `parts.py` cuts the source and makes rows of it. After: `table.py` gives the rows to the stages. A
part does not know how many records come before it, so it counts from 0, and the sums are added here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jemb.core.records import Kind
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import PIECE_SCHEMA, Piece, Table, write_table
from jemb.prepare.engine.verdicts import add_up
from jemb.prepare.source.check import check_names
from jemb.prepare.source.parts import Part, Summary, parts, read_part
from jemb.prepare.source.record_fields import Row
from jemb.prepare.source.sources import Source
from jemb.tables.places import base_name
from jemb.tables.records import Bad

KINDS: dict[str, Kind] = {"scores": "distill", "score": "scored", "label": "labelled"}
"""What each field besides texts makes of a data set."""
HAS: dict[str, Callable[[Row], bool]] = {
    "score": lambda row: row.score is not None,
    "label": lambda row: row.label is not None,
    "scores": lambda row: bool(row.scores),
}
"""Whether a row has it."""
PIECE_ROWS = 50_000
PIECE_BYTES = 64 << 20
"""A piece ends at so many rows or bytes of text."""
SERIAL_BYTES = 8 << 20
"""Bytes of input below which starting other processes takes longer than reading."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was in a source. triplets: rows with hard negatives; supervised: how many have a score, a label, scores;
    lacking: the first row that has not, by its record, counted from 1, and query; alone: rows with a label and no
    positive but their query. unreadable: file, line, reason and text of each record that is no row, in order, and
    whether the file breaks off there (`rest_lost`)."""

    table: Table
    triplets: int
    supervised: dict[str, int]
    lacking: dict[str, tuple[int, str]]
    alone: int
    unreadable: list[Mapping[str, Any]]

    @property
    def broken(self) -> Mapping[str, Any] | None:
        """The first record at which a file breaks off."""
        return next((row for row in self.unreadable if row["rest_lost"]), None)

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.table.pieces)

    @property
    def kind(self) -> Kind:
        """Of its rows as they are read."""
        for name, kind in KINDS.items():
            if self.supervised.get(name):
                return kind
        return "triplets" if self.triplets else "pairs"


def read(source: Source, job: Job) -> Reading:
    """All of `source`. Raises `InputError` when no record has the field of the query or of the positive: a wrong name,
    not bad rows."""
    todo = parts(source)
    function = partial(_read_part, source, job.folder, PIECE_ROWS)
    sizes = [part.size for part in todo]
    results = job.map("read", function, todo, sizes=sizes, unit="B", serial_below=SERIAL_BYTES)
    check_names(source, sum((Counter(result["names"]) for result in results), Counter()))
    pieces: list[Piece] = []
    unreadable: list[Mapping[str, Any]] = []
    start = 0
    lines: Counter[str] = Counter()
    lacking: dict[str, tuple[int, str]] = {}
    for part, result in zip(todo, results, strict=True):
        for piece in result["pieces"]:
            pieces.append(Piece(job.folder / piece["file"], start + piece["first"], piece["span"], piece["rows"]))
        for bad in result["unreadable"]:
            unreadable.append({"file": base_name(part.path), **bad, "line": bad["line"] + lines[part.path]})
        for name, (number, query) in result["lacking"].items():
            lacking.setdefault(name, (start + number + 1, query))
        start += result["records"]
        lines[part.path] += result["lines"]
    triplets = sum(result["triplets"] for result in results)
    supervised = add_up(result["supervised"] for result in results)
    alone = supervised.pop("alone", 0)
    return Reading(Table(tuple(pieces)), triplets, supervised, lacking, alone, unreadable)


def _read_part(source: Source, folder: Path, piece_rows: int, part: Part) -> dict[str, Any]:
    """The rows of a part as piece files; what else is known of it, its unreadable records included."""
    pieces: list[dict[str, Any]] = []
    unreadable: list[Bad] = []
    summary = Summary()
    triplets, supervised = 0, Counter[str]()
    lacking: dict[str, tuple[int, str]] = {}
    for number, piece in enumerate(_pieces(read_part(part, source, summary), unreadable, piece_rows)):
        first, last = piece[0].number, piece[-1].number
        triplets += sum(bool(row.negatives) for row in piece)
        for field, has in HAS.items():
            having = sum(map(has, piece))
            supervised[field] += having
            if having < len(piece) and field not in lacking:
                lacking[field] = next((row.number, row.query) for row in piece if not has(row))
        supervised["alone"] += sum(row.label is not None and row.positive == row.query for row in piece)
        name = f"part-{part.number:06d}-{number:06d}.arrow"
        numbers, *texts = map(list, zip(*piece, strict=True))
        write_table(folder / name, pa.table([np.array(numbers) - first, *texts], schema=PIECE_SCHEMA))
        pieces.append({"file": name, "first": first, "span": last + 1 - first, "rows": len(piece)})
    bad = [asdict(row) for row in unreadable]
    found = {"pieces": pieces, "triplets": triplets, "supervised": supervised, "lacking": lacking, "unreadable": bad}
    return found | {"records": summary.records, "lines": summary.lines, "names": dict(summary.names)}


def _pieces(items: Iterable[Row | Bad], unreadable: list[Bad], most: int) -> Iterator[list[Row]]:
    """The rows in pieces of `most`, or of `PIECE_BYTES`, whichever comes first; what is no row goes to `unreadable`."""
    piece: list[Row] = []
    size = 0
    for row in items:
        if isinstance(row, Bad):
            unreadable.append(row)
            continue
        piece.append(row)
        size += len(row.query) + len(row.positive) + sum(map(len, row.negatives + row.more_positives)) + len(row.extra)
        if len(piece) == most or size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
