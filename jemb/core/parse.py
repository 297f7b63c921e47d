"""JSON and YAML that somebody else wrote or a disk has damaged: values of the wanted shape, or errors that name them.

Before: bytes of a file or from a URL. After: `files.py` reads the files of runs, data sets and models with these.
"""

from __future__ import annotations

import json
from typing import Any

from jemb.core.errors import InputError

Shape = Any
"""A type (float takes whole numbers too, None is null), a tuple of shapes (any of them), `[shape]` (a list of such),
`{str: shape}` (an object of such), or `{name: shape}`, where a name that ends in `?` may be missing and others may
be there as well."""

COUNT = "count"
"""The shape of a whole number that is not negative."""
WORDS: dict[Any, str] = {
    COUNT: "a whole number >= 0",
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    None: "null",
}  # fmt: skip


def parse_json(data: bytes | str, where: object) -> Any:
    """The value in JSON text; `InputError` naming `where` for what is none, or is nested deeper than anybody writes."""
    try:
        return json.loads(data)
    except RecursionError:
        raise InputError(f"{where}: not valid JSON (nested too deep)") from None
    except ValueError as error:  # of JSON, of UTF-8, of numbers with thousands of digits
        raise InputError(f"{where}: not valid JSON ({error})") from None


def parse_yaml(data: bytes | str, where: object) -> Any:
    """The value in YAML text of plain values; `InputError` naming `where` for all else, Python's objects included."""
    import yaml

    try:
        return yaml.safe_load(data)
    except RecursionError:
        raise InputError(f"{where}: not valid YAML (nested too deep)") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{where}: not YAML of plain values ({' '.join(str(error).split())})") from None


def check_shape(value: Any, shape: Shape, where: object, at: str = "") -> None:
    """`InputError` naming `where` and the first part of `value` that is not of `shape`, what it is, what is wanted."""
    if not any(_is(value, one) for one in (shape if isinstance(shape, tuple) else (shape,))):
        raise InputError(f"{where}: {at or 'it'} is {_short(value)}; wanted {_words(shape)}")
    if isinstance(shape, list) and shape:
        for number, item in enumerate(value):
            check_shape(item, shape[0], where, f"{at}[{number}]")
    elif isinstance(shape, dict) and str in shape:
        for name, item in value.items():
            check_shape(item, shape[str], where, f"{at}.{name}".lstrip("."))
    elif isinstance(shape, dict):
        for name, inner in shape.items():
            plain = name.removesuffix("?")
            if plain in value:
                check_shape(value[plain], inner, where, f"{at}.{plain}".lstrip("."))
            elif plain == name:
                raise InputError(f"{where}: {at or 'it'} has no field {name!r}; wanted one, {_words(inner)}")


def _is(value: Any, shape: Shape) -> bool:
    kind = type(shape) if shape is None or isinstance(shape, dict | list) else shape
    if isinstance(value, bool):  # to Python that is an int
        return kind is bool
    if kind == COUNT:
        return isinstance(value, int) and value >= 0
    return isinstance(value, (int, float) if kind is float else kind)


def _words(shape: Shape) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_words, shape))
    return WORDS[type(shape) if isinstance(shape, dict | list) else shape]


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return WORDS[type(value)]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
