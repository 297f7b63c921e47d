"""JSON lines: an object a line. The lines of a file can be read in ranges, by several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jemb.core.errors import InputError
from jemb.tables.places import open_bytes
from jemb.tables.records import BOM, Bad, Record, excerpt, json_of
from jemb.tables.streams import Damaged, lines, open_data, refuse_foreign


@dataclass(slots=True)
class Tally:
    """lines: how many a reader has gone through, blank ones included; exact when it is done."""

    lines: int = 0


def read_json_lines(
    place: str, start: int = 0, end: int | None = None, tally: Tally | None = None
) -> Iterator[Record | Bad]:
    """The objects in the lines that begin in the bytes start ≤ b < end; blank lines are passed over.

    Lines are numbered from 1 within the range. start is 0 and end None for a compressed file.
    """
    number = 0
    with open_bytes(place) if start else open_data(place) as file:
        try:
            if not start:
                refuse_foreign(place, file)
            for number, line in enumerate(lines(file, start, end), 1):
                try:
                    value = json_of(line)
                    if type(value) is not dict:
                        raise ValueError(f"is a JSON {type(value).__name__}; wanted a JSON object")
                except ValueError as error:
                    if line.removeprefix(BOM).strip():
                        if number == 1 and not start:
                            _refuse_one_value(place, line)
                        yield Bad(number, str(error), excerpt(line))
                else:
                    yield number, value
        except Damaged as error:
            yield Bad(number + 1, str(error), rest_lost=True)
        finally:
            if tally is not None:
                tally.lines = number


def _refuse_one_value(place: str, line: bytes) -> None:
    """`InputError` when the first line shows that the file is one JSON value."""
    start = b"".join(line[:1000].removeprefix(BOM).split())
    if start == b"[" or start.startswith(b"[{"):
        raise InputError(f"{place}: is one JSON array; wanted an object a line: jq -c '.[]' FILE > NEW_FILE")
    if start == b"{":
        raise InputError(f"{place}: a JSON object goes over several lines; wanted one a line: jq -c . FILE > NEW_FILE")
