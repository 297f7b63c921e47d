"""Tables kept by column, as rows: Parquet files whole or by row groups, and batches of Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from jemb.tables.delimited import refuse_equal_names
from jemb.tables.places import open_bytes
from jemb.tables.records import Bad, Record, excerpt
from jemb.tables.streams import Damaged

BATCH = 1024
"""Rows made into Python objects at once."""
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
            for batch in file.iter_batches(BATCH, list(groups)):
                for fields in batch_rows(batch):
                    number += 1
                    yield number, fields
    except Damaged as error:
        yield Bad(number + 1, str(error), rest_lost=True)
    except (pyarrow.ArrowException, OSError) as error:
        yield Bad(number + 1, f"damaged or truncated Parquet: {excerpt(str(error))}", rest_lost=True)


def batch_rows(batch: pyarrow.RecordBatch | pyarrow.Table) -> Iterator[dict[str, Any]]:
    """Rows as dicts. Binary columns are taken for UTF-8, as old writers leave texts so; what is not stays bytes."""
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def _values(column: Any) -> list[Any]:
    kind = column.type
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return [_decoded(value) for value in column.to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # no reader checks that a column of texts holds texts
        return [_decoded(value) for value in column.cast(pyarrow.large_binary()).to_pylist()]
    except (ValueError, OverflowError):  # a time that Python has no object for
        return list(column.cast(pyarrow.string()).to_pylist())


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
