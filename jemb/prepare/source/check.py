"""Whether the sources can be read and hold what is asked for: a first look before any work, and a last one after.

Before: `sources.py`. After: `parts.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from jemb.config import suggest
from jemb.errors import InputError
from jemb.prepare.source.formats import hub_name, read_tar
from jemb.prepare.source.sources import Source
from jemb.tables import (
    DELIMITERS,
    Bad,
    Damaged,
    Record,
    each,
    is_url,
    load_hub,
    open_bytes,
    open_parquet,
    read_delimited,
    read_header,
    read_json_lines,
    separator_hint,
)

log = logging.getLogger(__name__)

FIRST_ROWS = 1000
"""Rows of a jsonl file in which a name must come up that all its rows should have."""


def check(sources: Sequence[Source]) -> None:
    """`InputError` naming the first source with a file that cannot be read or is damaged from the start, without any
    rows, or without the fields of query and positive. Looks at the start of each file only."""
    for source in sources:
        starts = each(partial(_start, source), source.paths)
        if not any(start.rows for start in starts):
            raise InputError(f"{source.where}: holds no rows; wanted at least one, or remove it from the input")
        if source.format == "jsonl":  # each row has names of its own, so one file need not have what another has
            names = sum((start.names for start in starts), Counter())
            rows = "none of the first rows" if any(start.rows == FIRST_ROWS for start in starts) else "no row"
            _check_wanted(source, source.where, names, f"{rows} has the field")


def check_names(source: Source, names: Counter[str]) -> None:
    """`InputError` when no row of the whole source has the field of the query or of the positive: a wrong name, not bad
    rows. names: field -> rows that have it, over all parts."""
    _check_wanted(source, source.where, names, "no row has the field")
    for option in ("negative", "negatives"):
        name = getattr(source.fields, option)
        if names and name != option and name not in names:
            log.warning("%s: no row has the field %r (fields.%s)", source.where, name, option)


def _check_wanted(source: Source, where: str, names: Counter[str], complaint: str) -> None:
    for option in ("query", "positive"):
        name = getattr(source.fields, option)
        if names and name not in names:
            there = [str(found) for found, _ in names.most_common(20)]
            raise InputError(
                f"{where}: {complaint} {name!r} (fields.{option}){separator_hint(there) or suggest(name, names)}; "
                f"fields there: {', '.join(there)}; give fields.{option}=NAME, or sources.{source.name}.fields.{option}"
                "=NAME for this data set alone"
            )


class _Start(NamedTuple):
    """rows: how many were seen at the start of a file; names: field -> how many of them have it."""

    rows: int
    names: Counter[str]


def _start(source: Source, path: str) -> _Start:
    if source.format == "jsonl":
        items = list(islice(read_json_lines(path), FIRST_ROWS))
        _refuse_damage(path, items)
        return _Start(len(items), Counter(name for item in items if not isinstance(item, Bad) for name in item[1]))
    if source.format == "tar":
        return _Start(_tar_rows(path), Counter())
    rows, columns = _columns(source.format, path)
    names = Counter(columns)
    if rows:
        _check_wanted(source, path, names, "there is no column")
    return _Start(rows, names)


def _columns(kind: str, path: str) -> tuple[int, Sequence[str]]:
    """(rows, at least 1 if there are any; names of the columns) of a file that says so itself."""
    if kind == "hf":
        found = load_hub(hub_name(path))
        return found.num_rows, found.column_names
    if kind == "parquet":
        try:
            with open_parquet(path) as file:
                return file.metadata.num_rows, file.schema_arrow.names
        except Damaged as error:
            raise InputError(f"{path}: {error}") from None
    header = read_header(path, DELIMITERS[kind])
    items = list(islice(read_delimited(path, DELIMITERS[kind]), 1)) if header else []
    _refuse_damage(path, items)
    return len(items), header


def _tar_rows(path: str) -> int:
    if is_url(path) or not path.lower().endswith(".tar"):  # would be copied whole for a look at its start
        with open_bytes(path) as file:
            return len(file.read(1))
    items = list(islice(read_tar(path), 1))
    _refuse_damage(path, items)
    return len(items)


def _refuse_damage(path: str, items: Sequence[Record | Bad]) -> None:
    if items and isinstance(items[0], Bad) and items[0].rest_lost:
        reason = items[0].reason
        raise InputError(reason if reason.startswith(path) else f"{path}: {reason}; get the file again")
