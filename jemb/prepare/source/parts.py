"""A source cut into parts that different processes can read.

Before: `sources.py`. After: `formats.py` reads a part. Cutting is invisible: whatever the size of the parts, once the
records and lines of the parts before are added to their numbers, all rows are as if one process had read them in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from jemb.prepare.source.formats import Part, hub_name, read_records
from jemb.prepare.source.sources import Source
from jemb.tables import (
    Damaged,
    Found,
    Lines,
    each,
    group_rows,
    hub_state,
    is_compressed,
    is_web,
    load_hub,
    look,
    open_bytes,
)

PART_BYTES = 64 << 20
PART_ROWS = 100_000


def parts(source: Source, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> list[Part]:
    """The parts of `source` in order: about `part_bytes` of a plain jsonl file, or `part_rows` rows of a Parquet file
    or hf data set; other files are one part each. Where `source.limit` is reached, they end.

    Raises `InputError` when a file cannot be seen.
    """
    if source.format == "hf":
        found = _hub_parts(source, part_rows)
    else:
        found = [_whole(source, file) for file in each(look, source.paths)]
        if source.format == "parquet":
            found = [part for file in each(partial(_by_row_groups, part_rows=part_rows), found) for part in file]
        if source.limit is not None:
            found = list(_limited(found, source.limit))
        if source.format == "jsonl":
            found = [part for file in found for part in _by_bytes(file, part_bytes)]
    return [replace(part, number=number) for number, part in enumerate(found)]


def _whole(source: Source, file: Found) -> Part:
    size = file.size or 0
    return Part(source.name, 0, source.format, file.place, size=size, whole_size=file.size, tag=file.tag)


def _by_bytes(part: Part, part_bytes: int) -> list[Part]:
    size = part.whole_size if part.end is None else part.end
    if not _has_ranges(part.path) or not size:
        return [part]
    ends = [*range(part_bytes, size, part_bytes), size]
    return [replace(part, start=start, end=end, size=end - start) for start, end in pairwise([0, *ends])]


def _has_ranges(path: str) -> bool:
    return not is_compressed(path) and not is_web(path)


def _by_row_groups(part: Part, part_rows: int) -> list[Part]:
    try:
        groups = group_rows(part.path)
    except Damaged:
        return [part]  # reading it says so, in its place
    found: list[Part] = []
    start = rows = size = 0
    for number, (group, group_bytes) in enumerate(groups, 1):
        rows += group
        size += group_bytes
        if rows >= part_rows or number == len(groups):
            found.append(replace(part, start=start, end=number, size=size, limit=rows))
            start, rows, size = number, 0, 0
    return found


def _hub_parts(source: Source, part_rows: int) -> list[Part]:
    hub = hub_name(source.paths[0])
    found = load_hub(hub)
    tag = hub_state(hub)["fingerprint"]
    rows = min(found.num_rows, source.limit or found.num_rows)
    row_bytes = found.data.nbytes // max(found.data.num_rows, 1)
    return [
        Part(source.name, 0, "hf", str(hub), start, end, size=(end - start) * row_bytes, tag=tag)
        for start in range(0, rows, part_rows)
        for end in [min(start + part_rows, rows)]
    ]


def _limited(found: Sequence[Part], limit: int) -> Iterator[Part]:
    """The parts up to record `limit` of the source. This reads files before the one in which that is."""
    for number, part in enumerate(found, 1):
        if limit <= 0:
            return
        if part.format == "parquet" and part.limit is not None:
            rows = part.limit
            part = replace(part, limit=min(rows, limit))
            limit -= rows
        elif part.format == "jsonl" and _has_ranges(part.path):
            end, records = _reach(part, limit)
            part = replace(part, end=end, size=end)
            limit -= records
        else:
            part = replace(part, limit=limit)
            limit -= sum(1 for _ in read_records(part)) if number < len(found) else 0
        yield part


def _reach(part: Part, records: int) -> tuple[int, int]:
    """(bytes of the lines up to that many records, how many there are)."""
    position = found = 0
    with open_bytes(part.path) as file:
        lines = Lines(file)
        for line in lines:
            position += len(line) + 1
            found += bool(line.strip())
            if found == records:
                break
    return min(position + lines.left_out, part.whole_size or 0), found
