"""Which reader a file name asks for, and files by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jemb.tables.columns import read_parquet
from jemb.tables.delimited import read_delimited
from jemb.tables.hub import read_hub
from jemb.tables.jsonl import Tally, read_json_lines
from jemb.tables.records import Bad, Record
from jemb.tables.tars import read_tar

TABLE_ENDINGS: Mapping[str, str] = {
    **{f".{kind}{packing}": kind for kind in ("jsonl", "csv", "tsv") for packing in ("", ".gz", ".zst")},
    ".parquet": "parquet",
}
"""End of a file name -> kind of table."""
TAR_ENDINGS: Mapping[str, str] = dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.zst"), "tar")


def kind_of(name: str, endings: Mapping[str, str] = TABLE_ENDINGS) -> tuple[str, str] | None:
    """(kind, name without its ending) of a file name; None when the ending is none of `endings` or all of the name."""
    for ending in sorted(endings, key=len, reverse=True):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return endings[ending], name[: -len(ending)]
    return None


def counted_in(kind: str) -> str:
    """What the numbers of its records count, in a word."""
    return "line" if kind in ("jsonl", "csv", "tsv") else "row"


def read_table(
    place: str, kind: str, start: int = 0, end: int | None = None, tally: Tally | None = None
) -> Iterator[Record | Bad]:
    """The rows of a file of that kind, or of the data set that `hf:…` names, in order.

    start, end: bytes of plain JSON lines, row groups of Parquet, rows of hf; other kinds are read whole. tally: counts
    the lines of JSON lines.
    """
    if kind == "jsonl":
        return read_json_lines(place, start, end, tally)
    if kind == "parquet":
        return read_parquet(place, start, end)
    if kind == "hf":
        return read_hub(place, start, end)
    return read_tar(place) if kind == "tar" else read_delimited(place, kind)
