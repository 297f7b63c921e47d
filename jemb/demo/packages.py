"""The documented objects of the installed Python packages: modules, classes and functions that have a docstring.

Source files are read with `ast` and never imported; compiled modules have none and are left out.
Before: nothing. After: `corpus.py`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.english import words

_LONGEST = 100
"""Words at which details are cut."""
_LARGEST_FILE = 400_000
"""Bytes of a source file above which it holds tables, not docstrings."""
_SKIPPED = frozenset(("test", "tests", "testing", "__pycache__", "idlelib", "lib2to3"))
# Where the prose of a docstring ends: at an underlined title (numpy), a title alone on its line (Google), a field
# (Sphinx), or a directive.
_SECTION = re.compile(r"^(?:\S.*\n[-=~]{3,}\s*$|[A-Z][\w ]{,30}:\s*$|:\w+[^:`\n]*:(?!`)|\.\. )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Documented:
    """A module, class or function that has a docstring.

    name: qualified, `numpy.linalg.norm`. kind: module, class or function. summary: its first sentence. details: the
    prose after that, cut.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    summary: str
    details: str

    @property
    def owner(self) -> str:
        """The class or module it is defined in."""
        return self.name.rpartition(".")[0]

    @property
    def texts(self) -> set[str]:
        """What must not be seen in training when the object is held out, folded."""
        return {fold(self.summary), fold(self.details)} - {""}


def fold(text: str) -> str:
    """`text` as it counts for equality between training and held-out data: words in lower case."""
    return " ".join(words(text))


def readable(name: str) -> str:
    """`sklearn.linear_model._ridge.RidgeCV` -> `sklearn linear model ridge cv`; equal words in a row become one."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"[._]+", " ", name)).lower().split()
    return " ".join(word for word, before in zip(parts, ["", *parts], strict=False) if word != before)


def digest(text: str, seed: int) -> int:
    """A 64-bit number that depends on `text` and `seed` alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest(), "big")


def parse_docstring(text: str) -> tuple[str, str]:
    """(first sentence, the paragraphs after it) of the prose before the first section; as plain text."""
    prose = _SECTION.split(inspect.cleandoc(text), maxsplit=1)[0]
    first, *rest = map(_plain, re.split(r"\n\s*\n", prose.strip()))
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<! vs)[.!?](?= [^a-z])", first)
    summary, more = (first[: end.end()], first[end.end() :]) if end else (first, "")
    return summary, " ".join(" ".join([more, *rest]).split()[:_LONGEST])


def _plain(text: str) -> str:
    """Without Sphinx roles and backticks, white space collapsed."""
    text = re.sub(r":[\w:+-]+:`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`", r"\1", text)
    return " ".join(re.sub(r"\[?`+([^`]*)`+_*\]?", r"\1", text).split())


def installed_roots() -> list[Path]:
    """The folders of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    return [Path(path) for path in dict.fromkeys((paths["stdlib"], paths["purelib"], paths["platlib"]))]


def find_modules(roots: Sequence[Path], num_bytes: int) -> list[tuple[str, Path]]:
    """(module name, source file) of about `num_bytes` of source, sorted by name.

    Packages take turns, a file each (the standard library counts as one package); within a package a hash of the name
    decides.
    """
    packages: dict[str, dict[str, Path]] = defaultdict(dict)
    for root in roots:
        for name, path in _source_files(root):
            package = "" if root == installed_roots()[0] else name.partition(".")[0]
            packages[package].setdefault(name, path)  # `lib64` may be `lib` under another name
    in_turn = (
        (turn, *file)
        for files in packages.values()
        for turn, file in enumerate(sorted(files.items(), key=lambda item: digest(item[0], 0)))
    )
    chosen = []
    for _, name, path in sorted(in_turn):
        if num_bytes <= 0:
            break
        num_bytes -= path.stat().st_size
        chosen.append((name, path))
    return sorted(chosen)


def _source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted module name, path) of the Python files under `root`, tests and tables left out."""
    for folder, subfolders, files in os.walk(root):
        # Not identifiers: `numpy-2.0.dist-info`, `numpy.libs`, and `site-packages` inside the standard library.
        subfolders[:] = sorted(name for name in subfolders if name.isidentifier() and name not in _SKIPPED)
        parent = Path(folder).relative_to(root).parts
        for path in sorted(Path(folder, file) for file in files if file.endswith(".py")):
            name = ".".join(parent if path.stem == "__init__" else (*parent, path.stem))
            if path.stem.isidentifier() and name and path.stat().st_size <= _LARGEST_FILE:
                yield name, path


def read_modules(modules: Sequence[tuple[str, Path]]) -> list[Documented]:
    """The objects of all modules in order of name, read by as many processes as there are cores."""
    with LocalExecutor(0) as executor:
        found = dict(executor.run(read_module, modules, serial=len(modules) < 400))
    return [item for number in range(len(modules)) for item in found[number]]


def read_module(module: tuple[str, Path]) -> list[Documented]:
    """The documented objects of one (module name, source file), one for each name; none if it cannot be parsed."""
    name, path = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    found: dict[str, Documented] = {}
    for item in _documented(name, tree):
        found.setdefault(item.name, item)  # overloads and property setters come twice
    return list(found.values())


def _documented(
    name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[Documented]:
    text = ast.get_docstring(node) or ""
    kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
    arguments: list[str] = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments = [item.arg for item in named if item.arg not in ("self", "cls")]
    # A docstring may hold half of a surrogate pair, which no file can.
    summary, details = parse_docstring(text.encode(errors="replace").decode())
    if summary:
        yield Documented(name, kind, tuple(arguments), summary, details)
    for child in [] if kind == "function" else node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(f"{name}.{child.name}", child)
