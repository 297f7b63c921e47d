"""Ways to break a file of the world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trials.fault import Break

DEEP = "[" * 100_000 + "]" * 100_000
"""JSON nested deeper than any parser goes."""


def put(name: str, data: str | bytes) -> Break:
    return lambda world: (world / name).write_bytes(data.encode() if isinstance(data, str) else data)


def gone(name: str) -> Break:
    return lambda world: (world / name).unlink()


def cut(name: str, end: int = 40) -> Break:
    """Without its last bytes."""
    return lambda world: (world / name).write_bytes((world / name).read_bytes()[:-end])


def grown(name: str) -> Break:
    return lambda world: (world / name).write_bytes((world / name).read_bytes() + b"\0" * 512)


def flipped(name: str, where: float = 0.5) -> Break:
    """With one bit the other way, at this share of its length."""

    def flip(world: Path) -> None:
        data = bytearray((world / name).read_bytes())
        data[int(where * len(data))] ^= 1
        (world / name).write_bytes(data)

    return flip


def replaced(name: str, old: bytes, new: bytes) -> Break:
    """With these bytes in the place of those, as many."""

    def change(world: Path) -> None:
        data = (world / name).read_bytes()
        assert old in data, f"{name} has no {old!r}"
        (world / name).write_bytes(data.replace(old, new, 1))

    return change


def edited(name: str, change: Callable[[Any], Any]) -> Break:
    """JSON after `change(value)`, which returns the new one, or None where it has changed it in place."""

    def edit(world: Path) -> None:
        value = json.loads((world / name).read_text())
        after = change(value)
        (world / name).write_text(json.dumps(value if after is None else after))

    return edit


def fields(name: str, **values: Any) -> Break:
    """A JSON object with these fields set."""
    return edited(name, lambda value: value.update(values))


def without(name: str, field: str) -> Break:
    return edited(name, lambda value: value.pop(field) and None)


def all_of(*breaks: Break) -> Break:
    def each(world: Path) -> None:
        for part in breaks:
            part(world)

    return each
