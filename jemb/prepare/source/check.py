"""Whether the sources can be read and hold what is asked for: a first look before any work, and a last one after.

Before: `sources.py`. After: `parts.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.prepare.options import FIELD_OPTIONS
from jemb.prepare.source.sources import Source
from jemb.tables.delimited import separator_hint
from jemb.tables.places import each
from jemb.tables.records import Bad
from jemb.tables.whole import read_table

log = logging.getLogger(__name__)

NOWHERE = "\0"
"""Begins the name of a field that is not to be there, where an option wants a name."""

FIRST_ROWS = 1000
"""Rows of a jsonl file in which a name must come up that all its rows should have. The columns of tables are known from
their first row, and a tar's first sample may be of another kind than the next."""


def check(sources: Sequence[Source]) -> None:
    """`InputError` naming the first source with a file that cannot be read or is damaged from the start, without any
    rows, or without the fields of query and positive. Looks at the start of each file only."""
    for source in sources:
        starts = each(partial(first_names, source), source.paths)
        if not any(rows for rows, _ in starts):
            raise InputError(f"{source.where}: holds no rows; wanted at least one, or remove it from the input")
        if source.format == "jsonl":  # each row has names of its own, so one file need not have what another has
            names = sum((names for _, names in starts), Counter())
            rows = "none of the first rows" if any(rows == FIRST_ROWS for rows, _ in starts) else "no row"
            _check_wanted(source, source.where, names, f"{rows} has the field")
        elif source.format != "tar":
            for path, (_, names) in zip(source.paths, starts, strict=True):
                _check_wanted(source, path, names, "there is no column")


def check_names(source: Source, names: Counter[str]) -> None:
    """`InputError` when no row of the whole source has the field of the query or of the positive: a wrong name, not bad
    rows. names: field -> rows that have it, over all parts."""
    _check_wanted(source, source.where, names, "no row has the field")
    for option in FIELD_OPTIONS[2:]:
        name = getattr(source.fields, option)
        if names and name and name != option and name not in names and not name.startswith(NOWHERE):
            log.warning("%s: no row has the field %r (fields.%s)", source.where, name, option)


def _check_wanted(source: Source, where: str, names: Counter[str], complaint: str) -> None:
    for option in ("positive",) if source.documents else ("query", "positive"):
        name = getattr(source.fields, option)
        others = {source.fields.positives, source.fields.label} if option == "positive" else set()
        if names and name not in names and others.isdisjoint(names):
            there = [found for found, _ in names.most_common(20)]
            raise InputError(
                f"{where}: {complaint} {name!r} (fields.{option}){separator_hint(there) or suggest(name, names)}; "
                f"fields there: {', '.join(there)}; give fields.{option}=NAME, or sources.{source.name}.fields.{option}"
                "=NAME for this data set alone"
            )


def first_names(source: Source, path: str) -> tuple[int, Counter[str]]:
    """(rows seen at the start of a file, field -> how many of them have it). `InputError` for a damaged file."""
    items = list(islice(read_table(path, source.format), FIRST_ROWS if source.format == "jsonl" else 1))
    if items and isinstance(items[0], Bad) and items[0].rest_lost:
        raise InputError(f"{path}: {items[0].reason}; get the file again")
    return len(items), Counter(str(name) for item in items if not isinstance(item, Bad) for name in item[1])
