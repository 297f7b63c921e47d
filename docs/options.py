"""What the documentation takes from the code: the options of a command, and docstrings.

`{options} train` in a page becomes a definition of each option of `jemb train`: name, type, default, meaning, as
`jemb train --help` has them, with the values of `conf/` for the commands that have such groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.resources import files
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_type_hints

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from jemb.app.cli import COMMANDS
from jemb.config import describe
from jemb.config.parse import PLACEHOLDERS

Row = tuple[str, str, Any, str]
"""Of `describe`: name, type, default, meaning."""
WITH_GROUPS = ("train",)
"""Commands that take values from `conf/`."""


class Options(SphinxDirective):
    """`{options} COMMAND`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        command = COMMANDS[name]
        self.env.note_reread()
        out = self._markdown(f"{getdoc(command.config)}\n\n```sh\n{command.example}\n```")
        rows_of: dict[str, list[Row]] = {"": []}
        for row in describe(command.config):
            rows_of.setdefault(group_of(row[0]), []).append(row)
        for group, rows in rows_of.items():
            about = dict(groups(command.config)).get(group, "")
            title = f"{group}.*" if group else "Options"
            section = nodes.section("", nodes.title("", "", nodes.literal("", title) if group else nodes.Text(title)))
            section["ids"] = [f"{name}-{group or 'options'}".replace(".", "-").lower()]
            self.state.document.note_explicit_target(section)
            section += self._markdown(about) if about else []
            section += self._definitions(name, rows)
            out.append(section)
        return out + (self._values() if name in WITH_GROUPS else [])

    def _definitions(self, command: str, rows: list[Row]) -> nodes.definition_list:
        entries = nodes.definition_list(classes=["options"])
        for option, kind, default, meaning in rows:
            term = nodes.term("", "", nodes.literal("", option), ids=[anchor(command, option)])
            term += nodes.inline("", f" {kind}".replace("|", " | "), classes=["kind"])
            shown = "required" if default == "required" else f"default {show(default)}"
            term += nodes.inline("", f" {shown}", classes=["default"])
            body = nodes.definition("", *self._markdown(meaning or "See below."))
            entries += nodes.definition_list_item("", term, body)
        return entries

    def _values(self) -> list[nodes.Node]:
        """The YAML groups: what `model=NAME`, `objective=NAME`, `experiment=NAME` stand for."""
        out: list[nodes.Node] = []
        conf = Path(str(files("jemb_conf")))
        for folder in sorted({path.parent for path in conf.glob("*/*.yaml")}):
            group = folder.name
            section = nodes.section(
                "", nodes.title("", "", nodes.literal("", f"{group}=NAME")), ids=[f"{group}-values"]
            )
            self.state.document.note_explicit_target(section)
            for path in sorted(folder.glob("*.yaml")):
                text = path.read_text().removeprefix("# @package _global_\n")
                section += nodes.rubric("", "", nodes.literal("", f"{group}={path.stem}"))
                section += nodes.literal_block(text, text, language="yaml")
            out.append(section)
        return out

    def _markdown(self, text: str) -> list[nodes.Node]:
        return self.parse_text_to_nodes(text)


def group_of(option: str) -> str:
    """`model` for `model.path`, `sources.NAME` for `sources.NAME.limit`; none for `weights.NAME` and plain options."""
    group, _, last = option.rpartition(".")
    return group_of(group) if last in PLACEHOLDERS else group


def groups(config: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of the config classes inside a config class."""
    for item in fields(config):
        hint = get_type_hints(config)[item.name]
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                key = f"{prefix}{item.name}" + ("" if inner is hint else ".NAME")
                yield key, getdoc(inner) or ""
                yield from groups(inner, f"{key}.")


def anchor(command: str, option: str) -> str:
    return f"{command}.{option}"


def show(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list | tuple):
        return "[" + ",".join(map(str, default)) + "]"
    return str(default)


def write_markdown_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Autodoc reads reStructuredText; ours have Markdown's `code`, lists, and blocks that are set in."""
    out: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        indented = all(line.startswith("    ") for line in paragraph.splitlines() if line)
        if indented and paragraph.strip():
            out += ["::", "", *paragraph.splitlines(), ""]
        else:
            out += [*as_lines(escaped(paragraph).splitlines()), ""]
    lines[:] = out


def escaped(text: str) -> str:
    """Outside of `code`, letters that reStructuredText takes for markup are letters."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part[:1] == "`" else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for part in parts)


def as_lines(lines: list[str]) -> Iterator[str]:
    """Two things that a writer of plain text puts on lines of their own stay there: items of a list, and `name: …`."""
    for number, line in enumerate(lines):
        starts = re.match(r"- |[\w, ]+(?<!Raises)(?<!Before)(?<!After): ", line) and "`" not in line.partition(":")[0]
        if number and starts:
            yield ""
        yield line


def leave_out_links_to_files(app: Any, page: str, source: list[str]) -> None:
    """A link out of docs/ leads to a file of the repository, which the site does not have: its text stays."""
    up = "../" * (page.count("/") + 1)
    source[0] = re.sub(rf"\[([^]]+)\]\({re.escape(up)}[^)]+\)", r"\1", source[0])
