"""Tables kept by column, as rows: Parquet files whole or by row groups, and batches of Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from jemb.core.errors import InputError
from jemb.tables.delimited import refuse_equal_names
from jemb.tables.places import open_bytes
from jemb.tables.records import MAX_RECORD, TOO_LONG, Bad, NotText, Record, excerpt
from jemb.tables.streams import Damaged, refuse_foreign

BATCH = 1024
"""Rows read at once, at most."""
BATCH_BYTES = 256 << 20
"""Bytes they may take, by what the file says of itself."""
STEP_BYTES = 16 << 20
"""Bytes of rows made into Python objects at once."""
PAGE_ROWS = 1024
"""Rows after which writers look whether a page is full: so many long texts make one page, which is read at once."""
BUFFER = 1 << 20
"""Bytes of a column read at once; without it pyarrow holds whole row groups in memory."""
MOST_PACKED = 100
"""Bytes that one byte of long texts unpacks to, at most. Texts take 3 to 10."""


def open_parquet(place: str) -> pyarrow.parquet.ParquetFile:
    """`Damaged` when its footer cannot be read; `InputError` when the file cannot, or two columns have one name."""
    file = open_bytes(place)
    refuse_foreign(place, file, but=b"PAR1")
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
    """The rows of the row groups start ≤ g < end, numbered from 1 within them.

    Raises `InputError` for a file made to fill the memory.
    """
    number = 0
    try:
        with open_parquet(place) as file:
            groups = range(start, file.num_row_groups if end is None else end)
            longest = max((_row_bytes(place, file.metadata.row_group(group), group) for group in groups), default=1)
            rows = max(1, min(BATCH, int(BATCH_BYTES / max(longest, 1))))
            for item in rows_of(file.iter_batches(rows, list(groups))):
                number += 1
                yield item
    except Damaged as error:
        yield Bad(number + 1, str(error), rest_lost=True)
    except (pyarrow.ArrowException, OSError) as error:
        yield Bad(number + 1, f"damaged or truncated Parquet: {excerpt(str(error))}", rest_lost=True)


def _row_bytes(place: str, group: pyarrow.parquet.RowGroupMetaData, number: int) -> float:
    """What a row of the group may take in memory; `InputError` when that is too much."""
    rows = max(group.num_rows, 1)
    total = 0.0
    for column in map(group.column, range(group.num_columns)):
        packed, unpacked = max(column.total_compressed_size, 1), column.total_uncompressed_size
        is_bomb = unpacked > MOST_PACKED * packed
        if unpacked / rows * (min(rows, PAGE_ROWS) if is_bomb else 1) > MAX_RECORD:
            raise InputError(
                f"{place}: row group {number}, column {column.path_in_schema!r}: {rows} rows of {unpacked} bytes, "
                f"packed into {packed}; wanted at most {MAX_RECORD >> 20} MiB a row, packed {MOST_PACKED} to 1 at most"
            )
        total += unpacked / rows
        if column.has_dictionary_page and column.num_values:
            # Any row may hold the longest text of the dictionary, which is kept once.
            dictionary = max(column.data_page_offset - (column.dictionary_page_offset or 0), 0)
            longest = unpacked if is_bomb else min(unpacked, 2 * dictionary * unpacked / packed)
            total += longest * column.num_values / rows
    return total


def rows_of(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[Record | Bad]:
    """Rows, numbered from 1. Binary values are taken for UTF-8, as old writers leave texts; others are `NotText`."""
    number = 0
    for batch in batches:
        names = batch.schema.names
        columns = [
            column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
            for column in batch.columns
        ]
        size = sum(column.nbytes for column in columns)
        step = max(1, batch.num_rows * STEP_BYTES // max(size, STEP_BYTES))
        for start in range(0, batch.num_rows, step):
            for values in zip(*(_values(column.slice(start, step)) for column in columns), strict=True):
                number += 1
                if size > MAX_RECORD and _length(values) > MAX_RECORD:
                    yield Bad(number, f"row of {TOO_LONG}")
                else:
                    yield number, dict(zip(names, values, strict=True))


def _values(column: pyarrow.Array) -> list[Any]:
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):  # texts that are not UTF-8; times that Python has no object for
        values = [_value(cell) for cell in column]
    return [_decoded(value) for value in values] if "binary" in str(column.type) else values


def _value(cell: pyarrow.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return NotText(f"not UTF-8: byte {error.start}")
    except (ValueError, OverflowError):
        return str(cell.cast(pyarrow.string()))


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            return NotText(f"not UTF-8: byte {error.start}")
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    return value


def _length(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(_length(item) for pair in value.items() for item in pair)
    return sum(map(_length, value)) if isinstance(value, list | tuple) else 8
