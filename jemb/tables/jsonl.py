"""JSON lines: an object a line. The lines of a file can be read in ranges, by several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jemb.tables.places import open_bytes
from jemb.tables.records import BOM, Bad, Damaged, Record, excerpt, json_of
from jemb.tables.streams import iter_lines, open_data


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
            for number, line in enumerate(iter_lines(file, start, end), 1):
                try:
                    value = json_of(line)
                except ValueError as error:
                    if line.removeprefix(BOM).strip():
                        yield Bad(number, str(error), excerpt(line))
                    continue
                if type(value) is dict:
                    yield number, value
                else:
                    yield Bad(number, f"is a JSON {type(value).__name__}; wanted a JSON object", excerpt(line))
        except Damaged as error:
            yield Bad(number + 1, str(error), rest_lost=True)
        finally:
            if tally is not None:
                tally.lines = number
