"""From plain values to a checked config class, and from a config class to its `--help`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from jemb.errors import InputError

T = TypeVar("T")


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """`values` as a checked `cls`; `InputError` with every offending field, the value seen and the value wanted."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        lines = [_explain(cls, item) for item in error.errors(include_url=False)]
        raise InputError("\n".join(lines)) from None


def option_names(cls: type) -> list[str]:
    """Dotted names of all options of a config class, nested ones included."""
    return [name for name, _ in _walk(cls)]


def option_kinds(cls: type) -> dict[str, Literal["text", "texts", "mapping", "other"]]:
    """Dotted name -> what its value is: free text, a list of texts, NAME=value pairs, or a number, choice or flag."""
    schema = {name: kind for name, kind, _, _ in describe(cls)}
    words = {"text": "text", "text|null": "text", "NAME=number": "mapping"}
    return {
        name: "texts" if kind.startswith("list of") else words.get(kind, "other")  # type: ignore[misc]
        for name, kind in schema.items()
    }


def describe(cls: type) -> list[tuple[str, str, Any, str]]:
    """(dotted name, type, default, meaning) of every option: the material of `--help`."""
    schema = TypeAdapter(cls).json_schema()
    rows = []

    def visit(properties: Mapping[str, Any], prefix: str, defaults: Any) -> None:
        for name, entry in properties.items():
            reference = entry.get("$ref", "").rpartition("/")[2]
            default = getattr(defaults, name, None) if defaults is not None else entry.get("default")
            if reference:
                visit(schema["$defs"][reference]["properties"], f"{prefix}{name}.", default)
            else:
                required = name in schema.get("required", []) and not prefix
                shown = "required" if required else default
                rows.append((prefix + name, _type_words(entry), shown, " ".join(entry.get("description", "").split())))

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


def _walk(cls: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, hint


def _type_words(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return "|".join(map(str, entry["enum"]))
    if "anyOf" in entry:
        return "|".join(_type_words(part) for part in entry["anyOf"])
    if entry.get("type") == "array":
        inner = entry["items"]
        return f"list of {_type_words(inner)}"
    if entry.get("type") == "object":
        return "NAME=number"
    return {"integer": "int", "number": "float", "string": "text", "boolean": "true|false"}.get(
        entry.get("type", ""), entry.get("type", "")
    )


def _explain(cls: type, item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    seen = item["input"]
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown option '{name}'{suggest(name, option_names(cls))}; --help lists all options"
    if item["type"] == "missing":
        return f"option '{name}' is missing: give {name}=…"
    wanted = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return wanted
    return f"option '{name}': got {seen!r}; {wanted[0].lower()}{wanted[1:]}"
