"""What makes a config class check itself, and what `--help` shows of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from functools import wraps
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError

from jemb.config.foreign import translate
from jemb.core.errors import InputError
from jemb.registry import suggest

T = TypeVar("T")

PLACEHOLDERS = ("NAME", "FIELD", "OPTION")
"""Words of an option's name in whose place the user's own stand."""
CHECKED = ConfigDict(extra="forbid", use_attribute_docstrings=True, str_min_length=1)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def options(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass of keyword options that checks itself whenever one is made.

    What does not fit raises `InputError` (a ValueError) with every offending option, the value seen and the value
    wanted, from Python as from the command line. A `pathlib.Path` may stand where a text is wanted; true and false are
    no numbers. What is wrong between options is the `__post_init__`'s to raise, as ValueError.
    """
    cls._as_given = model_validator(mode="before")(classmethod(_as_given))  # type: ignore[attr-defined, arg-type]
    checked: Any = dataclass(frozen=True, kw_only=True, config=CHECKED)(cls)
    unchecked = checked.__init__

    @wraps(unchecked)
    def make(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            unchecked(self, *arguments, **values)
        except ValidationError as error:
            raise InputError("\n".join(_explain(checked, item) for item in error.errors(include_url=False))) from None

    checked.__init__ = make
    return checked


def _as_given(cls: type, given: Any) -> Any:
    """Paths become texts; booleans are refused where pydantic would take them for 0 and 1."""
    values = given.kwargs if isinstance(given, ArgsKwargs) else given
    if not isinstance(values, Mapping):
        return given
    values = {name: _plain(value) for name, value in values.items()}
    hints = get_type_hints(cls)
    for name, value in values.items():
        parts = _parts(hints.get(name))
        if isinstance(value, bool) and bool not in parts and parts & {int, float}:
            raise PydanticCustomError("no_number", "number", {"name": name, "seen": value})
    return ArgsKwargs(given.args, values) if isinstance(given, ArgsKwargs) else values


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _parts(hint: Any) -> set[Any]:
    return {hint, *(part for inner in get_args(hint) for part in _parts(inner) if isinstance(part, type))}


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


def unknown_option(names: Iterable[str], given: str) -> str:
    """What to say of an option that is none of `names`: what other trainers mean by it, or the nearest name, with the
    NAME of `given` in the place of NAME."""
    names = list(names)
    if meant := translate(given, names):
        return f"unknown option '{given}'{meant}"
    words = given.split(".")
    readings = [".".join(words[1:end]) for end in range(2, len(words) + 1)]
    near = suggest(given, [name.replace("NAME", reading) for name in names for reading in readings or ["NAME"]])
    return f"unknown option '{given}'{near}; --help lists all options"


def describe(cls: type) -> list[tuple[str, str, Any, str]]:
    """(dotted name, type, default, meaning) of every option: the material of `--help`.

    A mapping is one option, or several, with NAME (or what its schema calls it) for the key: `weights.NAME`.
    """
    cls = cls.whole() if hasattr(cls, "whole") else cls  # with the options of the stages of prepare
    schema = TypeAdapter(cls).json_schema()
    rows: list[tuple[str, str, Any, str]] = []

    def visit(properties: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]) -> None:
        for name, entry in properties.items():
            default = defaults.get(name, entry.get("default"))
            if "additionalProperties" in entry:
                key = f"{prefix}{name}.{entry.get('key', 'NAME')}"
                inner = entry["additionalProperties"]
                if inner is True or "$ref" not in inner:
                    rows.append((key, "value" if inner is True else _type_words(inner), "none", _meaning(entry)))
                else:
                    visit(inside(inner), f"{key}.", {})
            elif "$ref" in entry:
                visit(inside(entry), f"{prefix}{name}.", vars(default) if default else {})
            else:
                required = name in schema.get("required", []) and not prefix
                rows.append((prefix + name, _type_words(entry), "required" if required else default, _meaning(entry)))

    def inside(entry: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = schema["$defs"][entry["$ref"].rpartition("/")[2]]["properties"]
        return found

    visit(schema["properties"], "", {item.name: default_of(item) for item in fields(cls)})
    return rows


def default_of(item: Field[Any]) -> Any:
    """The default of a dataclass's field; None where it has none."""
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


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
    name, seen = ".".join(map(str, item["loc"])), repr(item["input"])
    match item["type"]:
        case "unexpected_keyword_argument":
            return unknown_option(option_names(cls), name)
        case "unexpected_positional_argument":
            return (
                f"{cls.__name__}: got {seen} without a name; wanted option=value, as in {option_names(cls)[0]}={seen}"
            )
        case "missing":
            return f"option '{name}' is missing: give {name}=…"
        case "value_error":
            return str(item["msg"]).removeprefix("Value error, ")
        case "string_too_short":
            return f"option '{name}' is empty; wanted {name}=…"
        case "no_number":
            name = ".".join(map(str, (*item["loc"], item["ctx"]["name"])))
            return f"option '{name}': got {item['ctx']['seen']}; input should be no boolean"
    wanted = str(item["msg"])
    return f"option '{name}': got {seen}; {wanted[0].lower()}{wanted[1:]}"
