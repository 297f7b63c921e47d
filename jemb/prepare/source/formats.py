"""One part of a source as rows: the fields that were asked for, as texts, and everything else as extra fields.

Before: `parts.py` cuts a source. After: the runner adds what came before the part to its numbers. Bad rows never raise
here: they are part of what a file holds. A file that breaks off (truncated gzip, damaged tar or Parquet) ends with an
`Unreadable` that says the rest is lost.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jemb.config import FieldsConfig
from jemb.errors import InputError
from jemb.prepare.source.record_fields import Converter, reason, shown
from jemb.prepare.source.record_fields import Row as Row  # a part is read for its rows
from jemb.shards import UnreadableSample, read_tar_samples
from jemb.tables import (
    DELIMITERS,
    TABLE_ENDINGS,
    Bad,
    Damaged,
    HubName,
    Record,
    Tally,
    base_name,
    excerpt,
    hub_state,
    is_url,
    look,
    open_data,
    read_delimited,
    read_hub,
    read_json_lines,
    read_parquet,
)

ENDINGS = {**TABLE_ENDINGS, ".tar": "tar", ".tar.gz": "tar"}
"""End of a file name -> format."""
MAX_NAMES = 1000
"""Different field names that are counted; in data with names made on the spot there would be no end of them."""
UNCHANGED = "it has changed since the job began; wanted input that stays as it is until the job is done"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a source that is read at once. Picklable; holds no data.

    number: its place among the source's parts. path: file, URL or hf name. start, end: bytes of a jsonl file, row
    groups of a Parquet file, rows of a hf data set; end None is the end. limit: records to read; None: all.
    size: bytes, about, for progress. whole_size, tag: what the file was when it was cut, `None` where nobody knows.
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


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be used. line: in a text file, else its number in the file; from 1, counted in the part.

    text: its start. rest_lost: the file breaks off here, with unknown loss.
    """

    file: str
    line: int
    reason: str
    text: str = ""
    rest_lost: bool = False

    def shift(self, lines: int) -> Unreadable:
        """With its line counted in the whole file. lines: of the parts of the file before this one."""
        return replace(self, line=self.line + lines)

    def to_json(self) -> dict[str, Any]:
        return {"file": base_name(self.file), "line": self.line, "reason": self.reason, "text": self.text}


@dataclass(slots=True)
class Summary:
    """What a part held. records: unreadable ones included; lines: what the lines of the next part are shifted by;
    names: field name -> records that have it."""

    records: int = 0
    lines: int = 0
    names: Counter[str] = field(default_factory=Counter)


def read_part(
    part: Part, fields: FieldsConfig, constants: Mapping[str, str] | None = None
) -> Iterator[Row | Unreadable | Summary]:
    """Every record of a part in order, as a row or as unreadable; the last item is the `Summary`.

    fields: names in the records; constants: extra fields that each row gets. Extra fields named like a sample's own are
    left out. Raises `InputError` when the file is gone or has changed since the parts were made, or does so meanwhile.
    """
    _check_unchanged(part)
    convert = Converter(fields, constants or {})
    shapes: Counter[tuple[str, ...]] = Counter()
    summary, tally = Summary(), Tally()
    number = -1
    for number, item in enumerate(read_records(part, tally)):
        if isinstance(item, Bad):
            yield Unreadable(part.path, item.line, item.reason, item.text, item.rest_lost)
            continue
        line, record = item
        shapes[tuple(record)] += 1
        if len(shapes) > MAX_NAMES:
            _count_names(summary.names, shapes, fields)
        try:
            yield convert(number, record)
        except ValueError as error:
            yield Unreadable(part.path, line, reason(error), shown(record))
    _check_unchanged(part)
    _count_names(summary.names, shapes, fields)
    summary.records = number + 1
    summary.lines = tally.lines or summary.records
    yield summary


def read_records(part: Part, tally: Tally | None = None) -> Iterator[Record | Bad]:
    """The records of a part as they are, `part.limit` at most. tally: counts the lines of a jsonl file."""
    records = _all_records(part, tally)
    if part.limit is None:
        yield from records
        return
    for number, item in enumerate(records, 1):
        yield item
        if number == part.limit:
            return


def _all_records(part: Part, tally: Tally | None) -> Iterator[Record | Bad]:
    if part.format == "jsonl":
        return read_json_lines(part.path, part.start, part.end, tally)
    if part.format == "parquet":
        return read_parquet(part.path, part.start, part.end)
    if part.format == "hf":
        return read_hub(hub_name(part.path), part.start, part.end)
    if part.format == "tar":
        return read_tar(part.path)
    return read_delimited(part.path, DELIMITERS[part.format])


def hub_name(path: str) -> HubName:
    """The data set that the path of a hf source or part names."""
    hub = HubName.parse(path)
    if hub is None:
        raise InputError(f"{path}: wanted hf:NAME")
    return hub


def read_tar(place: str) -> Iterator[Record | Bad]:
    """A WebDataset sample a record: the fields of its `.json` member, and its text members by extension.

    A tar that is remote or packed lies in a temporary file meanwhile.
    """
    if not is_url(place) and not place.lower().endswith(".gz"):
        yield from _tar_records(place, Path(place))
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as copy:
        lost = ""
        try:
            with open_data(place) as file:
                while data := file.read1():
                    copy.write(data)
        except Damaged as error:
            lost = str(error)
        copy.flush()
        number = 0
        for item in _tar_records(place, Path(copy.name)):
            if lost and isinstance(item, Bad) and item.rest_lost:
                break
            number += 1
            yield item
        if lost:
            yield Bad(number + 1, lost, rest_lost=True)


def _tar_records(place: str, tar: Path) -> Iterator[Record | Bad]:
    number = 0
    try:
        for number, item in enumerate(read_tar_samples(tar), 1):
            if isinstance(item, UnreadableSample):
                yield Bad(number, f"{item.member}: {item.reason}", excerpt(item.text))
            else:
                yield number, item[1]
    except InputError as error:
        yield Bad(number + 1, str(error).replace(str(tar), place), rest_lost=True)


def _count_names(names: Counter[str], shapes: Counter[tuple[str, ...]], fields: FieldsConfig) -> None:
    """Add the names in `shapes`, the names of a record -> how many such records, and empty it."""
    wanted = {fields.query, fields.positive, fields.negative, fields.negatives}
    for shape, count in shapes.items():
        for name in shape:
            if name in wanted or name in names or len(names) < MAX_NAMES:
                names[excerpt(name)] += count
    shapes.clear()


def _check_unchanged(part: Part) -> None:
    if part.format == "hf":
        if hub_state(hub_name(part.path))["fingerprint"] != part.tag:
            raise InputError(f"{part.path}: {UNCHANGED}")
        return
    now = look(part.path)
    if part.whole_size is not None and (now.size, now.tag) != (part.whole_size, part.tag):
        raise InputError(f"{part.path}: was {part.whole_size} bytes, is {now.size}: {UNCHANGED}")
