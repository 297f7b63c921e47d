"""A source cut into parts that different processes can read, and a part as rows.

Before: `sources.py`. After: `prepare/read.py`. Cutting is invisible: whatever the size of the parts, once the records
and lines of the parts before are added to their numbers, all rows are as if one process had read them in order. Bad
rows never raise: they are part of what a file holds. A file that breaks off (truncated gzip, damaged tar or Parquet)
ends with a `Bad` that says the rest is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, pairwise

from jemb.core.errors import InputError
from jemb.prepare.options import FIELD_OPTIONS
from jemb.prepare.source.record_fields import Converter, Row, shown
from jemb.prepare.source.sources import Source
from jemb.tables.columns import group_rows
from jemb.tables.hub import hub_state, load_hub
from jemb.tables.jsonl import Tally
from jemb.tables.places import each, is_web, look
from jemb.tables.records import Bad, Record, excerpt
from jemb.tables.streams import Damaged, packing
from jemb.tables.whole import read_table

PART_BYTES = 64 << 20
PART_ROWS = 100_000
NAMED_ROWS = 100
"""Records of a part all of whose fields are counted: in data with names made on the spot there would be no end."""
UNCHANGED = "it has changed since the job began; wanted input that stays as it is until the job is done"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a source that is read at once. Picklable; holds no data.

    number: its place among the source's parts. path: file, URL or hf name. start, end: as `read_table` has them; end
    None is the end. limit: records to read; None: all. size: bytes, about, for progress. whole_size, tag: what the file
    was when it was cut, `None` where nobody knows.
    """

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
    part are shifted by; names: field name -> records that have it, of fields that were asked for or come up early."""

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
            Part(0, source.format, file.place, size=file.size or 0, whole_size=file.size, tag=file.tag)
            for file in each(look, source.paths)
        ]
    if source.format == "parquet":
        found = [part for file in each(partial(_by_row_groups, part_rows=part_rows), found) for part in file]
    if source.limit is not None:
        found = list(_limited(found, source.limit))
    elif source.format == "jsonl":
        found = [part for file in found for part in _by_bytes(file, part_bytes)]
    return [replace(part, number=number) for number, part in enumerate(found)]


def read_part(part: Part, source: Source, summary: Summary) -> Iterator[Row | Bad]:
    """Every record of a part of `source` in order, as a row or as one that cannot be used, with its line counted in the
    part.

    Extra fields named like a sample's own are left out. Raises `InputError` when the file is gone or has changed since
    the parts were made, or does so meanwhile.
    """
    check_unchanged(part)
    fields = source.fields
    convert = Converter(fields, source.constants, documents=source.documents)
    wanted = {getattr(fields, option) for option in FIELD_OPTIONS}
    for item in part.records(summary):
        summary.records += 1
        if isinstance(item, Bad):
            yield item
            continue
        line, record = item
        summary.names.update(map(excerpt, record) if summary.records <= NAMED_ROWS else record.keys() & wanted)
        try:
            yield convert(summary.records - 1, record)
        except ValueError as error:
            yield Bad(line, str(error), shown(record))
    check_unchanged(part)
    summary.lines = summary.lines or summary.records


def check_unchanged(part: Part) -> None:
    if part.format == "hf":
        if hub_state(part.path)["fingerprint"] != part.tag:
            raise InputError(f"{part.path}: {UNCHANGED}")
        return
    now = look(part.path)
    if part.whole_size is not None and (now.size, now.tag) != (part.whole_size, part.tag):
        raise InputError(f"{part.path}: was {part.whole_size} bytes, is {now.size}: {UNCHANGED}")


def _by_bytes(part: Part, part_bytes: int) -> list[Part]:
    size = part.whole_size
    if packing(part.path) is not None or is_web(part.path) or not size:  # which may know no ranges
        return [part]
    ends = [*range(part_bytes, size, part_bytes), size]
    return [replace(part, start=start, end=end, size=end - start) for start, end in pairwise([0, *ends])]


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
    path = source.paths[0]
    found = load_hub(path)
    tag = hub_state(path)["fingerprint"]
    row_bytes = found.data.nbytes // max(found.data.num_rows, 1)
    return [
        Part(0, "hf", path, start, end, limit=end - start, size=(end - start) * row_bytes, tag=tag)
        for start in range(0, found.num_rows, part_rows)
        for end in [min(start + part_rows, found.num_rows)]
    ]


def _limited(found: Sequence[Part], limit: int) -> Iterator[Part]:
    """The parts up to record `limit` of the source. This reads files before the one in which that is."""
    for part in found:
        if limit <= 0:
            return
        limited = replace(part, limit=min(limit, part.limit or limit))
        yield limited
        if part is not found[-1]:
            limit -= part.limit or sum(1 for _ in limited.records())
