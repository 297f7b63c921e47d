"""The demo's raw data: pairs, triplets and held-out tasks from the docstrings of the installed Python packages.

Source files are read with `ast` and never imported; compiled modules have none and are left out. What the docstrings
hold by nature stays in: copies from vendored packages, boiler-plate, markup, code, prose that says nothing. The filters
of `jemb prepare` come after this file. Everything is a function of the installed packages, `max_pairs` and `seed`.

    find_modules -> read_module -> Documented -> split by object -+-> train:    raw/ and raw_triplets/
                                                                  +-> held out: retrieval/ and negation.jsonl
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import inspect
import json
import os
import re
import sysconfig
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from jemb.demo.reword import reword
from jemb.errors import InputError
from jemb.files import whole_folder
from jemb.prepare.executor import LocalExecutor
from jemb.prepare.negating.english import words
from jemb.prepare.negation import negate

Row = dict[str, Any]

_HELD_OUT = 0.15
"""Share of the objects with a body that is held out: with the usual packages some 8 % of all objects."""
_MOST_COPIES = 3
"""Texts that more objects share are boiler-plate, no test of anything: such objects are never held out."""
_LONGEST = 100
"""Words at which a body is cut."""
_NUM_QUERIES = 400
_NUM_NEGATIONS = 500
_BYTES_PER_PAIR = 2_500
_FEWEST_BYTES = 4_000_000
_LARGEST_FILE = 400_000
"""Bytes of a source file above which it holds tables, not docstrings."""
_FILES_AT_ONCE = 100
_SKIPPED = frozenset(("test", "tests", "testing", "__pycache__", "idlelib", "lib2to3"))


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
        return _cut(" ".join(self.doc.details))

    @property
    def body(self) -> str:
        """All but the summary, cut: details, else what is returned and what the parameters mean."""
        parameters = [f"{name}: {text}" for name, text in self.doc.parameters]
        return self.explanation or _cut(" ".join([self.doc.returns, *parameters]))

    @property
    def texts(self) -> set[str]:
        """What must not be seen in training when the object is held out, folded."""
        return {fold(text) for text in (self.doc.summary, self.explanation, self.body, *self.doc.details)} - {""}


@dataclass(frozen=True, slots=True)
class CorpusCounts:
    """What was written: rows by data set, and the sizes of the held-out tasks."""

    files: int
    objects: int
    held_out: int
    pairs: Mapping[str, int]
    triplets: Mapping[str, int]
    documents: int
    queries: int
    negations: int


def build_corpus(folder: Path, *, max_pairs: int, seed: int, roots: Sequence[Path] | None = None) -> CorpusCounts:
    """Write the demo's data under `folder`, which appears whole or not at all and replaces an older one.

    raw/NAME.{jsonl,jsonl.gz,csv,parquet}: pairs, at most `max_pairs` together. raw_triplets/NAME.jsonl: `query
    positive negatives`. retrieval/: BEIR layout. negation.jsonl: `anchor entailment negative`. No summary and no
    paragraph of a held-out object is a text of a training row, whatever object that row comes from.
    roots: folders with packages; the standard library and site-packages where not given.
    Raises InputError when there are too few docstrings for every data set to have a row.
    """
    modules = find_modules(installed_roots() if roots is None else roots, max_pairs * _BYTES_PER_PAIR)
    # In hash order, so that whoever takes the first n takes them from everywhere.
    objects = sorted(_read_modules(modules), key=lambda item: _digest(item.name, seed))
    texts = [item.texts for item in objects]
    held_out = _hold_out(objects, texts, seed)
    secret = {text for item in held_out for text in item.texts}
    train = [item for item, own in zip(objects, texts, strict=True) if secret.isdisjoint(own)]

    def open_rows(rows: Iterable[Row]) -> Iterator[Row]:
        return (row for row in rows if secret.isdisjoint(map(fold, _texts_of(row))))

    pairs = _limit({name: list(open_rows(kind.make(train))) for name, kind in _PAIR_SETS.items()}, max_pairs)
    triplets = {
        name: list(islice(open_rows(make(train)), int(share * max_pairs)))
        for name, (make, share) in _TRIPLET_SETS.items()
    }
    documents, queries = _retrieval_task(held_out)
    negations = [
        {"anchor": row["query"], "entailment": row["positive"], "negative": row["negatives"][0]}
        for row in islice(_negations(held_out), _NUM_NEGATIONS)
    ]
    everything = {**pairs, **triplets, "queries": queries, "negations": negations}
    empty = [name for name, rows in everything.items() if not rows]
    if empty:
        raise InputError(
            f"the docstrings of the installed packages ({len(objects)} found in {len(modules)} files) give nothing "
            f"for {', '.join(empty)}: raise max_pairs (now {max_pairs}), or install packages with their sources"
        )
    with whole_folder(folder) as temporary:
        for name, rows in pairs.items():
            _write_rows(temporary / "raw" / f"{name}{_PAIR_SETS[name].suffix}", rows)
        for name, rows in triplets.items():
            _write_rows(temporary / "raw_triplets" / f"{name}.jsonl", rows)
        _write_rows(temporary / "negation.jsonl", negations)
        _write_rows(temporary / "retrieval" / "corpus.jsonl", documents)
        plain_queries = [{"_id": row["_id"], "text": row["text"]} for row in queries]
        _write_rows(temporary / "retrieval" / "queries.jsonl", plain_queries)
        lines = ["query-id\tcorpus-id\tscore", *(f"{row['_id']}\t{row['document']}\t1" for row in queries)]
        (temporary / "retrieval" / "qrels").mkdir()
        (temporary / "retrieval" / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CorpusCounts(
        files=len(modules),
        objects=len(objects),
        held_out=len(held_out),
        pairs={name: len(rows) for name, rows in pairs.items()},
        triplets={name: len(rows) for name, rows in triplets.items()},
        documents=len(documents),
        queries=len(queries),
        negations=len(negations),
    )


def fold(text: str) -> str:
    """`text` as it counts for equality between training and held-out data: words in lower case."""
    return " ".join(words(text))


def readable(name: str) -> str:
    """`sklearn.linear_model._ridge.RidgeCV` -> `sklearn linear model ridge cv`; equal words in a row become one."""
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"[._]+", " ", name)).lower().split()
    return " ".join(word for word, before in zip(parts, ["", *parts], strict=False) if word != before)


def _digest(text: str, seed: int) -> int:
    """A 64-bit number that depends on `text` and `seed` alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest(), "big")


def _cut(text: str) -> str:
    return " ".join(text.split()[:_LONGEST])


# From packages to objects.


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
    left = max(num_bytes, _FEWEST_BYTES)
    by_size = sorted(packages, key=lambda package: (sum(size for _, _, size in packages[package]), package))
    for index, package in enumerate(by_size):
        share = left // (len(by_size) - index)
        for name, path, size in sorted(packages[package], key=lambda item: _digest(item[0], 0)):
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


def _read_modules(modules: Sequence[tuple[str, Path]]) -> list[Documented]:
    """The objects of all modules in order of name, read by as many processes as there are cores."""
    chunks = [modules[start : start + _FILES_AT_ONCE] for start in range(0, len(modules), _FILES_AT_ONCE)]
    with LocalExecutor(0) as executor, tqdm(total=len(modules), desc="docstrings", leave=False, disable=None) as bar:
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


# From a docstring to its parts.

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


# From objects to rows.


def _name_summary(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        if item.kind != "module":
            arguments = f" ({', '.join(item.arguments)})" if item.arguments else ""
            yield {"query": readable(item.name) + arguments, "positive": item.doc.summary}


def _summary_details(objects: Sequence[Documented]) -> Iterator[Row]:
    return ({"query": item.doc.summary, "positive": item.explanation} for item in objects if item.explanation)


def _parameter_description(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        for name, text in item.doc.parameters:
            yield {"query": f"{name} of {item.title}: {item.doc.summary}", "positive": _cut(text)}


def _returns_description(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        if item.doc.returns:
            yield {"query": f"result of {item.title}: {item.doc.summary}", "positive": _cut(item.doc.returns)}


def _raises(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        for error, text in item.doc.raises:
            yield {"query": f"{error} in {item.title}", "positive": _cut(text)}


def _class_method(objects: Sequence[Documented]) -> Iterator[Row]:
    classes = {item.name: item for item in objects if item.kind == "class"}
    for item in objects:
        if item.kind == "function" and item.owner in classes:
            method = readable(item.name.rpartition(".")[2])
            yield {"query": f"{classes[item.owner].doc.summary} {method}", "positive": item.doc.summary}


def _module_summary(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        if item.kind == "module":
            yield {"query": readable(item.name), "positive": _cut(f"{item.doc.summary} {item.explanation}")}


def _siblings(objects: Sequence[Documented]) -> Iterator[Row]:
    """Summary, own details, and as negatives the details of up to two others in the same class or module."""
    families: dict[str, list[Documented]] = defaultdict(list)
    for item in objects:
        if item.explanation and item.kind != "module":
            families[item.owner].append(item)
    for family in families.values():
        for index, item in enumerate(family):
            others = dict.fromkeys(other.explanation for other in family[index + 1 :] + family[:index])
            different = (text for text in others if fold(text) != fold(item.explanation))
            if negatives := list(islice(different, 2)):
                yield {"query": item.doc.summary, "positive": item.explanation, "negatives": negatives}


def _negations(objects: Sequence[Documented]) -> Iterator[Row]:
    """A summary in other words, the summary, and its negation.

    Only where the negation shares more words with the summary than the other wording does: counting words must not
    solve it.
    """
    for summary in dict.fromkeys(item.doc.summary for item in objects):
        if 4 <= len(summary.split()) <= 25 and re.fullmatch(r"[A-Z][\w ,.()'-]+", summary):
            anchor, negative = reword(summary), negate(summary)
            if anchor and negative and 0.35 <= _overlap(anchor, summary) < _overlap(summary, negative):
                yield {"query": anchor, "positive": summary, "negatives": [negative]}


def _overlap(one: str, other: str) -> float:
    """Dice coefficient of the words of two texts; 1 for the same words."""
    first, second = Counter(words(one)), Counter(words(other))
    return 2 * (first & second).total() / max(first.total() + second.total(), 1)


class _PairSet(NamedTuple):
    make: Callable[[Sequence[Documented]], Iterator[Row]]
    share: float
    """Of `max_pairs`; what other sets leave comes on top."""
    suffix: str
    """File format: different readers of `jemb prepare` get their turn."""


_PAIR_SETS = {
    "name_summary": _PairSet(_name_summary, 0.24, ".jsonl"),
    "summary_details": _PairSet(_summary_details, 0.30, ".jsonl"),
    "parameter_description": _PairSet(_parameter_description, 0.16, ".parquet"),
    "returns_description": _PairSet(_returns_description, 0.08, ".jsonl"),
    "class_method": _PairSet(_class_method, 0.07, ".csv"),
    "raises": _PairSet(_raises, 0.09, ".jsonl"),
    "module_summary": _PairSet(_module_summary, 0.06, ".jsonl.gz"),
}
_TRIPLET_SETS = {"siblings": (_siblings, 0.2), "negation": (_negations, 0.2)}


# Split, limits, files.


def _hold_out(objects: Sequence[Documented], texts: Sequence[set[str]], seed: int) -> list[Documented]:
    """The objects that training must not see, chosen by a hash of the name among those with a body of their own.

    texts: `Documented.texts` of each object.
    """
    copies = Counter(text for own in texts for text in own)
    return [
        item
        for item, own in zip(objects, texts, strict=True)
        if item.body
        and own
        and max(copies[text] for text in own) <= _MOST_COPIES
        and _digest(f"held out {item.name}", seed) < _HELD_OUT * 2**64
    ]


def _retrieval_task(held_out: Sequence[Documented]) -> tuple[list[Row], list[Row]]:
    """(documents, queries): find an object's details by its summary among the bodies of all held-out objects."""
    by_body = {fold(item.body): item for item in reversed(held_out)}  # one of those with the same text
    summaries = Counter(fold(item.doc.summary) for item in held_out)
    documents = [{"_id": item.name, "title": "", "text": item.body} for item in by_body.values()]
    asked = (
        item
        for item in by_body.values()
        if summaries[fold(item.doc.summary)] == 1
        and fold(item.doc.summary) not in fold(item.explanation)
        and _is_prose(item.doc.summary, num_words=4)
        and _is_prose(item.explanation, num_words=12)
    )
    queries = [
        {"_id": f"q{number}", "text": item.doc.summary, "document": item.name}
        for number, item in enumerate(islice(asked, _NUM_QUERIES))
    ]
    return documents, queries


def _is_prose(text: str, num_words: int) -> bool:
    """At least `num_words` words, most of it letters, and no interpreter session."""
    letters = sum(char.isalpha() or char.isspace() for char in text)
    return len(text.split()) >= num_words and letters > 0.85 * len(text) and ">>>" not in text


def _texts_of(row: Row) -> list[str]:
    return [row["query"], row["positive"], *row.get("negatives", [])]


def _limit(sets: dict[str, list[Row]], total: int) -> dict[str, list[Row]]:
    """The first rows of each set, at most `total` in all: up to its share, and what one leaves goes to the others."""
    limits: dict[str, int] = {}
    left, weight = total, sum(_PAIR_SETS[name].share for name in sets)
    for name in sorted(sets, key=lambda name: len(sets[name]) / _PAIR_SETS[name].share):
        share = _PAIR_SETS[name].share
        limits[name] = min(len(sets[name]), round(left * share / weight))
        left, weight = left - limits[name], weight - share
    return {name: rows[: limits[name]] for name, rows in sets.items()}


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One file in the format its suffix names; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
