"""The documented objects of the installed Python packages: modules, classes and functions that have a docstring.

Source files are read with `ast` and never imported; compiled modules have none and are left out.
Before: nothing. After: `corpus.py`.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jemb.core.progress import Progress
from jemb.demo.docstring import Docstring, parse_docstring
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.english import words

_LONGEST = 100
"""Words at which a body is cut."""
FEWEST_BYTES = 4_000_000
"""Of source, to be read whatever is asked for."""
_LARGEST_FILE = 400_000
"""Bytes of a source file above which it holds tables, not docstrings."""
_FILES_AT_ONCE = 100
_SKIPPED = frozenset(("test", "tests", "testing", "__pycache__", "idlelib", "lib2to3"))


@dataclass(frozen=True, slots=True)
class Documented:
    """A module, class or function that has a docstring. name: qualified, `numpy.linalg.norm`."""

    name: str
    kind: str
    arguments: tuple[str, ...]
    doc: Docstring

    @property
    def owner(self) -> str:
        """The class or module it is defined in."""
        return self.name.rpartition(".")[0]

    @property
    def title(self) -> str:
        """Class and method, or module and function, in words."""
        return readable(".".join(self.name.split(".")[-2:]))

    @property
    def explanation(self) -> str:
        """The details, cut."""
        return cut(" ".join(self.doc.details))

    @property
    def body(self) -> str:
        """All but the summary, cut: details, else what is returned and what the parameters mean."""
        parameters = [f"{name}: {text}" for name, text in self.doc.parameters]
        return self.explanation or cut(" ".join([self.doc.returns, *parameters]))

    @property
    def texts(self) -> set[str]:
        """What must not be seen in training when the object is held out, folded."""
        return {fold(text) for text in (self.doc.summary, self.explanation, self.body, *self.doc.details)} - {""}


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


def cut(text: str) -> str:
    return " ".join(text.split()[:_LONGEST])


def installed_roots() -> list[Path]:
    """The folders of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    return [Path(path) for path in dict.fromkeys((paths["stdlib"], paths["purelib"], paths["platlib"]))]


def find_modules(roots: Sequence[Path], num_bytes: int) -> list[tuple[str, Path]]:
    """(module name, source file) of about `num_bytes` of source, sorted by name.

    Every package gets the same number of bytes (the standard library counts as one package), and what small packages
    leave goes to the larger ones; within a package a hash of the name decides.
    """
    packages: dict[str, list[tuple[str, Path, int]]] = defaultdict(list)
    names: set[str] = set()
    standard_library = installed_roots()[0]
    for root in roots:
        for name, path in _source_files(root):
            size = path.stat().st_size
            if size <= _LARGEST_FILE and name not in names:  # `lib64` may be `lib` under another name
                names.add(name)
                package = "" if root == standard_library else name.partition(".")[0]
                packages[package].append((name, path, size))
    chosen: list[tuple[str, Path]] = []
    left = max(num_bytes, FEWEST_BYTES)
    by_size = sorted(packages, key=lambda package: (sum(size for _, _, size in packages[package]), package))
    for index, package in enumerate(by_size):
        share = left // (len(by_size) - index)
        for name, path, size in sorted(packages[package], key=lambda item: digest(item[0], 0)):
            if size <= share:
                share, left = share - size, left - size
                chosen.append((name, path))
    return sorted(chosen)


def _source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted module name, path) of the Python files under `root`, tests left out."""
    for folder, subfolders, files in os.walk(root):
        # Not identifiers: `numpy-2.0.dist-info`, `numpy.libs`, and `site-packages` inside the standard library.
        subfolders[:] = sorted(name for name in subfolders if name.isidentifier() and name not in _SKIPPED)
        parent = Path(folder).relative_to(root).parts
        for file in sorted(files):
            stem = file.removesuffix(".py")
            if stem != file and stem.isidentifier():
                name = ".".join(parent if stem == "__init__" else (*parent, stem))
                if name:
                    yield name, Path(folder, file)


def read_modules(modules: Sequence[tuple[str, Path]]) -> list[Documented]:
    """The objects of all modules in order of name, read by as many processes as there are cores."""
    chunks = [modules[start : start + _FILES_AT_ONCE] for start in range(0, len(modules), _FILES_AT_ONCE)]
    with LocalExecutor(0) as executor, Progress("docstrings", len(modules), "file") as bar:
        found: dict[int, list[Documented]] = {}
        for number, objects in executor.run(_read_chunk, chunks, serial=len(chunks) < 4):
            found[number] = objects
            bar.update(len(chunks[number]))
    return [item for number in range(len(chunks)) for item in found[number]]


def _read_chunk(modules: Sequence[tuple[str, Path]]) -> list[Documented]:
    return [item for module in modules for item in read_module(module)]


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
    text = ast.get_docstring(node)
    kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
    arguments: list[str] = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments = [item.arg for item in named if item.arg not in ("self", "cls")]
    # A docstring may hold half of a surrogate pair, which no file can.
    if text and (doc := parse_docstring(text.encode(errors="replace").decode())).summary:
        yield Documented(name, kind, tuple(arguments), doc)
    for child in [] if kind == "function" else node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(f"{name}.{child.name}", child)
