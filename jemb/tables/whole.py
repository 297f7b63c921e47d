"""Which reader a file name asks for, and whole files by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jemb.tables.columns import read_parquet
from jemb.tables.delimited import DELIMITERS, read_delimited
from jemb.tables.jsonl import read_json_lines
from jemb.tables.records import Bad, Record

TABLE_ENDINGS: Mapping[str, str] = {
    **{f".{kind}{packing}": kind for kind in ("jsonl", *DELIMITERS) for packing in ("", ".gz", ".zst")},
    ".parquet": "parquet",
}
"""End of a file name -> kind of table."""


def kind_of(name: str, endings: Mapping[str, str] = TABLE_ENDINGS) -> tuple[str, str] | None:
    """(kind, name without its ending) of a file name; None when the ending is none of `endings` or all of the name."""
    for ending in sorted(endings, key=len, reverse=True):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return endings[ending], name[: -len(ending)]
    return None


def read_table(place: str, kind: str) -> Iterator[Record | Bad]:
    """All rows of a file of that kind, in order."""
    if kind == "jsonl":
        return read_json_lines(place)
    if kind == "parquet":
        return read_parquet(place)
    return read_delimited(place, DELIMITERS[kind])
