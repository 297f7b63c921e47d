"""A source cut into parts that different processes can read, and a part as rows.

Before: `sources.py`. After: `prepare/read.py`. Cutting is invisible: whatever the size of the parts, once the records
and lines of the parts before are added to their numbers, all rows are as if one process had read them in order. Bad
rows never raise: they are part of what a file holds. A file that breaks off (truncated gzip, damaged tar or Parquet)
ends with a `Bad` that says the rest is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, pairwise

from jemb.core.errors import InputError
from jemb.prepare.options import FIELD_OPTIONS, FieldsConfig
from jemb.prepare.source.record_fields import Converter, Row, reason, shown
from jemb.prepare.source.sources import Source
from jemb.tables.columns import group_rows
from jemb.tables.hub import hub_name, hub_state, load_hub
from jemb.tables.jsonl import Tally
from jemb.tables.places import each, is_web, look, open_bytes
from jemb.tables.records import BOM, Bad, Record, excerpt
from jemb.tables.streams import Damaged, Lines, packing
from jemb.tables.whole import read_table

PART_BYTES = 64 << 20
PART_ROWS = 100_000
MAX_NAMES = 1000
"""Different field names that are counted; in data with names made on the spot there would be no end of them."""
UNCHANGED = "it has changed since the job began; wanted input that stays as it is until the job is done"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a source that is read at once. Picklable; holds no data.

    number: its place among the source's parts. path: file, URL or hf name. start, end: as `read_table` has them; end
    None is the end. limit: records to read; None: all. size: bytes, about, for progress. whole_size, tag: what the file
    was when it was cut, `None` where nobody knows.
    """

    source: str
    number: int
    format: str
    path: str
    start: int = 0
    end: int | None = None
    limit: int | None = None
    size: int = 0
    whole_size: int | None = None
    tag: str = ""

    def records(self, tally: Tally | None = None) -> Iterator[Record | Bad]:
        """As they are, `limit` at most. tally: counts the lines of JSON lines."""
        return islice(read_table(self.path, self.format, self.start, self.end, tally), self.limit)


@dataclass(slots=True)
class Summary(Tally):
    """What a part held, filled while it is read. records: unreadable ones included; lines: what the lines of the next
    part are shifted by; names: field name -> records that have it."""

    records: int = 0
    names: Counter[str] = field(default_factory=Counter)


def parts(source: Source, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> list[Part]:
    """The parts of `source` in order: about `part_bytes` of a plain jsonl file, or `part_rows` rows of a Parquet file
    or hf data set; other files are one part each. Where `source.limit` is reached, they end.

    Raises `InputError` when a file cannot be seen.
    """
    if source.format == "hf":
        found = _hub_parts(source, part_rows)
    else:
        found = [
            Part(source.name, 0, source.format, file.place, size=file.size or 0, whole_size=file.size, tag=file.tag)
            for file in each(look, source.paths)
        ]
        if source.format == "parquet":
            found = [part for file in each(partial(_by_row_groups, part_rows=part_rows), found) for part in file]
        if source.limit is not None:
            found = list(_limited(found, source.limit))
        if source.format == "jsonl":
            found = [part for file in found for part in _by_bytes(file, part_bytes)]
    return [replace(part, number=number) for number, part in enumerate(found)]


def read_part(
    part: Part, fields: FieldsConfig, constants: Mapping[str, str], summary: Summary, *, documents: bool = False
) -> Iterator[Row | Bad]:
    """Every record of a part in order, as a row or as one that cannot be used, with its line counted in the part.

    fields: names in the records; constants: extra fields that each row gets. Extra fields named like a sample's own are
    left out. documents: the query of a record that has none is "". Raises `InputError` when the file is gone or has
    changed since the parts were made, or does so meanwhile.
    """
    check_unchanged(part)
    convert = Converter(fields, constants, documents=documents)
    shapes: Counter[tuple[str, ...]] = Counter()
    for item in part.records(summary):
        summary.records += 1
        if isinstance(item, Bad):
            yield item
            continue
        line, record = item
        shapes[tuple(record)] += 1
        if len(shapes) > MAX_NAMES:
            _count_names(summary.names, shapes, fields)
        try:
            yield convert(summary.records - 1, record)
        except ValueError as error:
            yield Bad(line, reason(error), shown(record))
    check_unchanged(part)
    _count_names(summary.names, shapes, fields)
    summary.lines = summary.lines or summary.records


def _count_names(names: Counter[str], shapes: Counter[tuple[str, ...]], fields: FieldsConfig) -> None:
    """Add the names in `shapes`, the names of a record -> how many such records, and empty it."""
    wanted = {getattr(fields, option) for option in FIELD_OPTIONS}
    for shape, count in shapes.items():
        for name in shape:
            if name in wanted or name in names or len(names) < MAX_NAMES:
                names[excerpt(name)] += count
    shapes.clear()


def check_unchanged(part: Part) -> None:
    if part.format == "hf":
        if hub_state(hub_name(part.path))["fingerprint"] != part.tag:
            raise InputError(f"{part.path}: {UNCHANGED}")
        return
    now = look(part.path)
    if part.whole_size is not None and (now.size, now.tag) != (part.whole_size, part.tag):
        raise InputError(f"{part.path}: was {part.whole_size} bytes, is {now.size}: {UNCHANGED}")


def _by_bytes(part: Part, part_bytes: int) -> list[Part]:
    size = part.whole_size if part.end is None else part.end
    if not _has_ranges(part.path) or not size:
        return [part]
    ends = [*range(part_bytes, size, part_bytes), size]
    return [replace(part, start=start, end=end, size=end - start) for start, end in pairwise([0, *ends])]


def _has_ranges(path: str) -> bool:
    return packing(path) is None and not is_web(path)


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
            limit -= sum(1 for _ in part.records()) if number < len(found) else 0
        yield part


def _reach(part: Part, records: int) -> tuple[int, int]:
    """(bytes of the lines up to that many records, how many there are)."""
    position = found = 0
    with open_bytes(part.path) as file:
        lines = Lines(file)
        for line in lines:
            position += len(line) + 1
            found += bool(line.removeprefix(BOM).strip())
            if found == records:
                break
    return min(position + lines.left_out, part.whole_size or 0), found
