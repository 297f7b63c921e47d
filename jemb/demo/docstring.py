"""A docstring in numpy, Google or Sphinx style to its parts as plain texts.

Before: `packages.py` finds the docstrings. After: `corpus.py` makes pairs of their parts.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of a docstring as plain texts, white space collapsed.

    summary: the first sentence. details: the paragraphs after it. parameters, raises: (name, description).
    returns: empty where nothing is said.
    """

    summary: str
    details: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    returns: str = ""
    raises: tuple[tuple[str, str], ...] = ()


_TITLES = {
    "parameters": "parameters, other parameters, args, arguments, keyword arguments, keyword args, attributes",
    "returns": "returns, return, yields",
    "raises": "raises",
    "prose": "explanation, description, notes, note",
    "other": "examples, example, see also, references, warnings, warning, warns, shape, usage, methods",
}
_SECTION_OF = {title: section for section, titles in _TITLES.items() for title in titles.split(", ")}


def parse_docstring(text: str) -> Docstring:
    """The parts of a docstring in numpy, Google or Sphinx style; sections of other kinds are left out."""
    summary, details, parameters, returns, raises = "", [], [], "", []
    for index, (section, lines) in enumerate(_sections(text.splitlines())):
        if section == "prose":
            paragraphs = _paragraphs(lines)
            if index == 0 and paragraphs:
                summary, rest = _first_sentence(paragraphs[0])
                paragraphs[:1] = [rest] if rest else []
            details += paragraphs
        elif section == "parameters":
            parameters += _items(lines)
        elif section == "raises":
            raises += _items(lines)
        elif section == "returns" and not returns:
            items = _items(lines)
            returns = items[0][1] if items else " ".join(_paragraphs(lines)[:1])
    return Docstring(summary, tuple(details), tuple(parameters), returns, tuple(raises))


def _sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(kind of section, its lines) in order; the first one is the prose before any title.

    Titles: underlined (numpy), `Args:` alone on a line (Google), or one field `:param name: …` (Sphinx).
    """
    found: list[tuple[str, list[str]]] = [("prose", [])]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        title = line.strip().rstrip(":").lower()
        field = re.match(r":(?P<kind>param|arg|raise|except|return)\w*(?P<name>[^:]*):(?P<text>.*)", line)
        if field:
            kind = {"raise": "raises", "except": "raises", "return": "returns"}.get(field["kind"], "parameters")
            name = (field["name"].split() or ["value"])[-1]
            found.append((kind, [f"{name}: {field['text']}"]))
        elif re.match(r":\w+[^:`]*:(?!`)", line):
            found.append(("other", []))
        elif _is_rule(following) and title and not line[0].isspace():
            found.append((_SECTION_OF.get(title, "other"), []))
        elif line.endswith(":") and title in _SECTION_OF and not line[0].isspace():
            found.append((_SECTION_OF[title], []))
        elif not _is_rule(line):
            found[-1][1].append(line)
    return found


def _is_rule(line: str) -> bool:
    return re.fullmatch(r"\s*[-=~]{3,}\s*", line) is not None


def _paragraphs(lines: Iterable[str]) -> list[str]:
    parts = re.split(r"\n\s*\n", inspect.cleandoc("\n".join(lines)))
    # `.. directive::` is markup, often about versions.
    return [text for part in parts if not part.startswith("..") and (text := _plain(part))]


def _items(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(name, first paragraph of its description) of each entry of a section, in either style.

    numpy: `name : type`, the description indented below. Google: `name (type): description`, continued indented.
    """
    entries: list[tuple[str, list[str]]] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if line[:1].strip():
            match = re.match(r"[*`]*(?P<name>\w[\w., *`]*?)[*`]*(?: ?\(.*?\))?(?P<colon> ?:(?!\w)(?P<text>.*))?$", line)
            if match:
                is_type = (match["colon"] or "").startswith(" ")
                entries.append((match["name"], ["" if is_type else match["text"] or ""]))
        elif entries:
            entries[-1][1].append(line)
    return [(name, texts[0]) for name, body in entries if (texts := _paragraphs(body))]


def _first_sentence(text: str) -> tuple[str, str]:
    """The first sentence and the rest."""
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<! vs)[.!?](?= [^a-z])", text)
    return (text[: end.end()], text[end.end() :].strip()) if end else (text, "")


def _plain(text: str) -> str:
    """Without Sphinx roles and backticks, white space collapsed."""
    text = re.sub(r":[\w:+-]+:`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`", r"\1", text)
    return " ".join(re.sub(r"\[?`+([^`]*)`+_*\]?", r"\1", text).split())
