"""What may be kept or shown of a text: URLs without credentials, names without places, cells that no program runs.

Before: options, manifests and records, which hold what a user typed and what others wrote. After: config.yaml,
run.json, log lines and errors (`without_secrets`), published files (`without_places`), tables and pages (`csv_cell`,
`markdown`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import PurePath
from typing import Any

CUT = "***"
"""Stands where a secret stood."""
CREDENTIALS = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
QUERY = re.compile(r"(\w://[^\s?#'\"<>]*)\?[^\s#'\"<>]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PLACE = r"(?:[A-Za-z][\w+.-]*://|(?<![\w.~-])(?:\.{1,2}|~[\w.-]*)?/)"
WHOLE_PLACE = re.compile(rf"((?:[a-z_]+:)?)({PLACE}.*)", re.DOTALL)
PLACE_IN_WORDS = re.compile(rf"{PLACE}[^\s'\",;()\[\]]*")


def without_secrets(text: str) -> str:
    """`text` with `***` for user and password of each URL in it, and for its query, which may hold a token."""
    return QUERY.sub(rf"\1?{CUT}", CREDENTIALS.sub(f"{CUT}@", text)) if "://" in text else text


def for_terminal(text: str) -> str:
    """`without_secrets`, and what would command the terminal (colours, cursor, title, bell) as `\\x1b` and the like."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", without_secrets(text))


def without_places(text: str) -> str:
    """`text` with the last name of each URL and path in it. A path is known by its beginning: `/`, `./`, `../`, `~`."""
    if whole := WHOLE_PLACE.fullmatch(text):
        return whole[1] + last_name(whole[2])
    return PLACE_IN_WORDS.sub(lambda found: last_name(found[0]), text)


def last_name(place: str) -> str:
    """The last part of a path or URL; of a URL without a path nothing but what kind it is."""
    scheme, url, rest = place.partition("://")
    if url:
        return PurePath(rest.partition("?")[0].partition("/")[2]).name or f"{scheme}://{CUT}"
    return PurePath(place).name or CUT


def each_text(change: Callable[[str], str], value: Any) -> Any:
    """A JSON value with every text in it changed, names of fields included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {each_text(change, name): each_text(change, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [each_text(change, item) for item in value]
    return value


def csv_cell(text: str) -> str:
    """`text` as a spreadsheet shows it: what it would take for a formula gets an apostrophe before it."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def markdown(text: str) -> str:
    """`text` in one line of Markdown that only shows it: no HTML, link, picture or code comes of it."""
    return re.sub(r"([\\`*\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))
