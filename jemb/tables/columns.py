"""Tables kept by column, as rows: Parquet files whole or by row groups, and batches of Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from jemb.tables.delimited import refuse_equal_names
from jemb.tables.places import open_bytes
from jemb.tables.records import Bad, Damaged, NotText, Record, excerpt

BATCH = 1024
"""Rows read at once, at most."""
BATCH_BYTES = 256 << 20
"""Bytes they may take, by what the file says of itself."""
BUFFER = 1 << 20
"""Bytes of a column read at once; without it pyarrow holds whole row groups in memory."""


def open_parquet(place: str) -> pyarrow.parquet.ParquetFile:
    """`Damaged` when its footer cannot be read; `InputError` when the file cannot, or two columns have one name."""
    file = open_bytes(place)
    try:
        table = pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER)
    except (pyarrow.ArrowException, OSError) as error:
        file.close()
        raise Damaged(f"damaged or truncated Parquet: {excerpt(str(error))}") from None
    refuse_equal_names(place, table.schema_arrow.names)
    return table


def group_rows(place: str) -> list[tuple[int, int]]:
    """(rows, bytes) of each row group; raises as `open_parquet`."""
    with open_parquet(place) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def read_parquet(place: str, start: int = 0, end: int | None = None) -> Iterator[Record | Bad]:
    """The rows of the row groups start ≤ g < end, numbered from 1 within them."""
    number = 0
    try:
        with open_parquet(place) as file:
            groups = range(start, file.num_row_groups if end is None else end)
            shapes = [file.metadata.row_group(group) for group in groups]
            longest = max((shape.total_byte_size // max(shape.num_rows, 1) for shape in shapes), default=1)
            rows = max(1, min(BATCH, BATCH_BYTES // max(longest, 1)))
            for item in rows_of(file.iter_batches(rows, list(groups))):
                number += 1
                yield item
    except Damaged as error:
        yield Bad(number + 1, str(error), rest_lost=True)
    except (pyarrow.ArrowException, OSError) as error:
        yield Bad(number + 1, f"damaged or truncated Parquet: {excerpt(str(error))}", rest_lost=True)


def rows_of(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[Record | Bad]:
    """Rows, numbered from 1. Binary values are taken for UTF-8, as old writers leave texts; others are `NotText`."""
    number = 0
    for batch in batches:
        has_bytes = "binary" in str(batch.schema)
        for row in _rows(batch):
            number += 1
            if isinstance(row, str):
                yield Bad(number, row)
            else:
                yield number, {name: _decoded(value) for name, value in row.items()} if has_bytes else row


def _rows(batch: pyarrow.RecordBatch) -> list[dict[str, Any] | str]:
    """Each row, or why it is none: texts that are not UTF-8, and times that Python cannot hold."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [excerpt(str(error))]
    return [row for number in range(batch.num_rows) for row in _rows(batch.slice(number, 1))]


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            return NotText(f"not UTF-8: byte {error.start}")
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return {name: _decoded(item) for name, item in value.items()} if isinstance(value, dict) else value
