"""From plain values to a checked config class, and from a config class to its `--help`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from jemb.errors import InputError

T = TypeVar("T")

PLACEHOLDERS = ("NAME", "FIELD")
"""Words of an option's name in whose place the user's own stand."""


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """`values` as a checked `cls`; `InputError` with every offending field, the value seen and the value wanted."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        lines = [_explain(cls, item) for item in error.errors(include_url=False)]
        raise InputError("\n".join(lines)) from None


def option_names(cls: type) -> list[str]:
    """Dotted names of all options of a config class, nested ones included, as `describe` gives them."""
    return [name for name, _, _, _ in describe(cls)]


def option_kinds(cls: type) -> dict[str, str]:
    """Dotted name -> type in words (`text`, `text|null`, `list of text`, `int`, …), as `describe` gives them."""
    return {name: kind for name, kind, _, _ in describe(cls)}


def find_option(names: Iterable[str], given: str) -> tuple[str, list[str]] | None:
    """(option of `names`, path of keys) that a dotted name means, or None.

    Where an option has NAME or FIELD (`sources.NAME.path`), any text may stand, also with dots in it; of several
    readings the one with the shortest NAME counts.
    """
    found: list[tuple[int, str, list[str]]] = []
    for option in names:
        words = option.split(".")
        pattern = r"\.".join("(.+?)" if word in PLACEHOLDERS else f"({re.escape(word)})" for word in words)
        if match := re.fullmatch(pattern, given):
            found.append((len(match.group(2)) if len(words) > 1 else 0, option, list(match.groups())))
    return min(found)[1:] if found else None


def suggest_option(names: Iterable[str], given: str) -> str:
    """As `suggest`, with the NAME of `given` in the place of NAME."""
    names = list(names)
    words = given.split(".")
    readings = [".".join(words[1:end]) for end in range(2, len(words) + 1)]
    return suggest(given, [name.replace("NAME", reading) for name in names for reading in readings or ["NAME"]])


def describe(cls: type) -> list[tuple[str, str, Any, str]]:
    """(dotted name, type, default, meaning) of every option: the material of `--help`.

    A mapping is one option, or several, with NAME (or what its schema calls it) for the key: `weights.NAME`.
    """
    schema = TypeAdapter(cls).json_schema()
    rows: list[tuple[str, str, Any, str]] = []

    def visit(properties: Mapping[str, Any], prefix: str, defaults: Any) -> None:
        for name, entry in properties.items():
            reference = entry.get("$ref", "").rpartition("/")[2]
            default = getattr(defaults, name, None) if defaults is not None else entry.get("default")
            if "additionalProperties" in entry:
                key = f"{prefix}{name}.{entry.get('key', 'NAME')}"
                inner = entry["additionalProperties"]
                if "$ref" in inner:
                    visit(schema["$defs"][inner["$ref"].rpartition("/")[2]]["properties"], f"{key}.", None)
                else:
                    rows.append((key, _type_words(inner), "none", _meaning(entry)))
            elif reference:
                visit(schema["$defs"][reference]["properties"], f"{prefix}{name}.", default)
            else:
                required = name in schema.get("required", []) and not prefix
                shown = "required" if required else default
                rows.append((prefix + name, _type_words(entry), shown, _meaning(entry)))

    visit(schema["properties"], "", _Defaults(cls))
    return rows


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a near miss, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


class _Defaults:
    """The default of each field of a dataclass as an attribute, without the required fields."""

    def __init__(self, cls: type) -> None:
        for item in fields(cls):
            if item.default_factory is not item.default:
                factory = item.default_factory
                setattr(self, item.name, factory() if callable(factory) else item.default)


def _meaning(entry: Mapping[str, Any]) -> str:
    return " ".join(entry.get("description", "").split())


def _type_words(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return "|".join(map(str, entry["enum"]))
    if "anyOf" in entry:
        return "|".join(_type_words(part) for part in entry["anyOf"])
    if entry.get("type") == "array":
        inner = entry["items"]
        return f"list of {_type_words(inner)}"
    return {"integer": "int", "number": "float", "string": "text", "boolean": "true|false"}.get(
        entry.get("type", ""), entry.get("type", "")
    )


def _explain(cls: type, item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    seen = item["input"]
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown option '{name}'{suggest_option(option_names(cls), name)}; --help lists all options"
    if item["type"] == "missing":
        return f"option '{name}' is missing: give {name}=…"
    wanted = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return wanted
    return f"option '{name}': got {seen!r}; {wanted[0].lower()}{wanted[1:]}"
