"""Rows in memory as files of JSON lines, which every reader of rows reads: so they get the same checks and messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jemb.core.errors import InputError
from jemb.core.files import inside

UNNAMED = "data"
"""The data set that rows without a name become."""


def write_rows(data: Any, folder: Path) -> dict[str, Path]:
    """Write each data set as `NAME.jsonl` into `folder`; by name where it is.

    data: rows (a `datasets.Dataset`, a pandas or polars frame, an Arrow table, an iterable of dictionaries), or several
    as {name: rows}. Raises InputError for what is none of these, with the row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sets = data if isinstance(data, Mapping) else {UNNAMED: data}
    if wrong := [name for name in sets if "/" in str(name)]:
        raise InputError(f"data set {wrong[0]!r}: its name becomes that of a folder; wanted no '/' in it")
    paths = {str(name): inside(folder, f"{name}.jsonl", "data") for name in sets}
    for name, rows in sets.items():
        with paths[str(name)].open("w", encoding="utf-8") as file:
            for number, row in enumerate(_rows(name, rows)):
                if not isinstance(row, Mapping):
                    raise InputError(
                        f"data set {name}, row {number}: is a {type(row).__name__}; wanted a dictionary, as "
                        '{"query": …, "positive": …}'
                    )
                file.write(json.dumps(dict(row), default=_plain) + "\n")
    return paths


def _rows(name: str, rows: Any) -> Iterator[Any]:
    if type(rows).__module__.startswith("pandas."):
        rows = pa.Table.from_pandas(rows, preserve_index=False)
    elif not hasattr(rows, "to_batches") and hasattr(rows, "__arrow_c_stream__"):
        rows = pa.table(rows)
    if hasattr(rows, "to_batches"):
        for batch in rows.to_batches(max_chunksize=1000):
            yield from batch.to_pylist()
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes):
        yield from rows
    else:
        raise InputError(f"data set {name}: got {type(rows).__name__}; wanted rows: a frame, a table or dictionaries")


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as JSON has them; what else there is, as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
