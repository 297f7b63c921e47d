"""What a stage leaves beside the pieces of a data set, and its statistics, which add up over pieces.

Before: a stage has decided. After: `table.py` reads the rows that are left; the report and the folder of dropped rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jemb.prepare.engine.table import (
    PIECE_SCHEMA,
    VERDICT_SCHEMA,
    Dropped,
    Ids,
    Rows,
    Table,
    Verdict,
    changes_file,
    drops_file,
    key_of,
    load_table,
    write_table,
)


def write_drops(folder: Path, piece: int, drops: Sequence[tuple[int, str, str]]) -> None:
    """The drops of a piece: (id, reason, note), in ascending order of id."""
    if drops:
        write_table(drops_file(folder, piece), pa.table([*map(list, zip(*drops, strict=True))], schema=VERDICT_SCHEMA))


def write_negatives(
    folder: Path,
    piece: int,
    ids: Ids,
    negatives: list[tuple[str, ...]] | None,
    more_positives: list[tuple[str, ...]] | None = None,
    scores: list[tuple[float | None, ...]] | None = None,
) -> None:
    """What is new of live rows of a piece, in ascending order of id; None: unchanged."""
    given = {"negatives": negatives, "more_positives": more_positives, "scores": scores}
    columns = [pa.array(ids)]
    for name, values in given.items():
        rows = [None] * len(ids) if values is None else list(map(list, values))
        columns.append(pa.array(rows, PIECE_SCHEMA.field(name).type))
    write_table(changes_file(folder, piece), pa.table(columns, names=["id", *given]))


def write_verdict(folder: Path, piece: int, rows: Rows, verdict: Verdict) -> dict[str, Any]:
    """Leave a verdict beside the piece; returns what the marker keeps: counts by reason, and statistics."""
    drops = [(int(rows.ids[position]), *verdict.dropped[position]) for position in sorted(verdict.dropped)]
    write_drops(folder, piece, drops)
    changes = (verdict.negatives, verdict.more_positives, verdict.scores)
    if any(values is not None for values in changes):
        write_negatives(folder, piece, rows.ids, *changes)
    return {"dropped": dict(Counter(reason for _, reason, _ in drops)), "statistics": verdict.statistics}


def write_dropped(folder: Path, table: Table, found: Sequence[Dropped]) -> dict[str, Any]:
    """Leave the verdict of a stage that looked at everything, piece by piece."""
    for number, piece in enumerate(table.pieces):
        drops: list[tuple[int, str, str]] = []
        for dropped in found:
            low, high = np.searchsorted(dropped.ids, [piece.start, piece.start + piece.span])
            notes = [
                dropped.note.format(value=value, key=key_of(value)) if "{" in dropped.note else dropped.note
                for value in dropped.values[low:high].tolist()
            ]
            reasons = [dropped.reason] * len(notes)
            drops += zip(dropped.ids[low:high].tolist(), reasons, notes, strict=True)
        write_drops(folder, number, sorted(drops))
    counts: Counter[str] = Counter()
    for dropped in found:
        counts[dropped.reason] += len(dropped.ids)
    statistics = add_up(dropped.statistics for dropped in found)
    return {"dropped": {reason: count for reason, count in counts.items() if count}, "statistics": statistics}


def read_drops(folder: Path, piece: int) -> list[tuple[int, str, str]]:
    """(id, reason, note) of the rows of a piece that the stage dropped."""
    path = drops_file(folder, piece)
    if not path.exists():
        return []
    table = load_table(path, VERDICT_SCHEMA.names)
    return list(zip(*(table[name].to_pylist() for name in VERDICT_SCHEMA.names), strict=True))


def histogram(values: npt.NDArray[np.floating[Any]], bins: int, start: float, end: float) -> dict[str, Any]:
    """As a statistic: counts of the values in equal ranges; those outside count in the first and the last."""
    counts, _ = np.histogram(np.clip(values, start, end), bins, (start, end))
    return {"from": start, "to": end, "counts": counts.tolist()}


def add_up(parts: Any) -> dict[str, Any]:
    """Statistics of all parts together: numbers, and dicts and lists of numbers place by place."""
    total: dict[str, Any] = {}
    for part in parts:
        total = _sum(total, part)
    return total


def _sum(a: Any, b: Any, name: str = "") -> Any:
    if isinstance(b, Mapping):
        return {**a, **{key: _sum(a[key], value, key) if key in a else value for key, value in b.items()}}
    if isinstance(b, list):
        return [_sum(x, y) for x, y in zip(a, b, strict=True)]
    # The borders of a histogram are the same in every part.
    return a if name in ("from", "to") else a + b
