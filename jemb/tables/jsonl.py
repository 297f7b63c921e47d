"""JSON lines: an object a line. The lines of a file can be read in ranges, by several processes.

pydantic's parser is five times as fast as Python's. It accepts nothing that Python's refuses and gives the same values
(NaN, integers of any size, the last of equal keys), so what it refuses is asked of Python's: that knows the reason, or
finds it legal after all (half a surrogate pair, deep nesting).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from jemb.tables.places import open_bytes
from jemb.tables.records import Bad, Record, excerpt
from jemb.tables.streams import BLOCK, MAX_LINE, PACKED_BLOCK, Damaged, Lines, is_compressed, open_data, refuse_utf16


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
        lines = Lines(file, start, end, PACKED_BLOCK if is_compressed(place) else BLOCK)
        try:
            if not start:
                refuse_utf16(place, file)
            for number, line in enumerate(lines, 1):
                try:
                    value = from_json(line)
                except ValueError:
                    if not line.strip():
                        continue
                    value = _json_value(line.removeprefix(b"\xef\xbb\xbf") if number == 1 and not start else line)
                    if isinstance(value, Bad):
                        yield Bad(number, value.reason, value.text)
                        continue
                if type(value) is dict:
                    yield number, value
                else:
                    yield Bad(number, f"is a JSON {type(value).__name__}; wanted a JSON object", excerpt(line))
        except Damaged as error:
            yield Bad(number + 1, str(error), rest_lost=True)
        finally:
            if tally is not None:
                tally.lines = lines.count


def _json_value(line: bytes) -> Any:
    """The value in a line, or why there is none as `Bad` (of line 0)."""
    if len(line) > MAX_LINE:
        return Bad(0, f"line of more than {MAX_LINE >> 20} MiB", excerpt(line))
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Bad(0, f"not UTF-8: byte {error.start}", excerpt(line))
    except (ValueError, RecursionError) as error:
        return Bad(0, f"not JSON: {error}", excerpt(line))
