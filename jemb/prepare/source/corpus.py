"""A user's own documents, to mine hard negatives in: found and checked before any work, then read once into files.

Before: the option `mine.corpus`. After: `vectors/pool.py` has their vectors, hashes and texts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.core.files import write_array
from jemb.prepare.engine.identity import describe
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.read import SERIAL_BYTES
from jemb.prepare.engine.table import PIECE_ROWS, add_up, runs, write_table
from jemb.prepare.source.check import FIRST_ROWS
from jemb.prepare.source.parts import Part, check_unchanged, parts
from jemb.prepare.source.record_fields import check_text, reason
from jemb.prepare.source.sources import Source, find_in
from jemb.prepare.vectors.hard_negatives import hashes
from jemb.tables.jsonl import Tally
from jemb.tables.places import base_name, each, to_local
from jemb.tables.records import Bad, NotText, Record
from jemb.tables.whole import read_table

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01
"""Share of unreadable documents above which the job stops."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the documents are. field: of the records, with the text."""

    sources: tuple[Source, ...]
    field: str
    place: str

    def settings(self) -> dict[str, Any]:
        """For the record: its name, and a digest of what is in it. No folders, so that it may move."""
        found = [each(partial(describe, source.format), source.paths) for source in self.sources]
        digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        return {"corpus": base_name(self.place), "corpus_files": digest}


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read: files of texts with their rows, and beside each one of their hashes. statistics: `read`, `blank`,
    `unreadable`."""

    files: tuple[tuple[Path, int], ...]
    statistics: dict[str, int]

    def hash_files(self) -> list[Path]:
        return [_hash_file(path) for path, _ in self.files]


def find_corpus(place: str, field: str) -> Corpus:
    """Raises `InputError` where there is nothing, or the first records of a file have no such field."""
    corpus = Corpus(tuple(find_in(to_local(place)).values()), field, place)
    for source in corpus.sources:
        each(partial(_check_start, source.format, field), source.paths)
    return corpus


def read_corpus(corpus: Corpus, job: Job) -> Documents:
    """All documents as Arrow files of a column `text`, in their order, without blank ones.

    Raises `InputError` where there is none, a file breaks off, or more than `MAX_UNREADABLE` cannot be read.
    """
    todo = [part for source in corpus.sources for part in parts(source)]
    tasks = list(enumerate(todo))
    sizes = [part.size for part in todo]
    read = partial(_read_part, job.folder, corpus.field)
    results = job.map("read corpus", read, tasks, sizes=sizes, unit="B", serial_below=SERIAL_BYTES)
    statistics = {"read": 0, "blank": 0, "unreadable": 0} | add_up(result["counts"] for result in results)
    found = _places(todo, results)
    bad, lost = next(iter(found), None), next((bad for bad in found if bad["rest_lost"]), None)
    if lost:
        raise InputError(f"{_shown(lost)}: an unknown number of documents is lost; get the file again")
    if bad:
        unreadable, total = statistics["unreadable"], sum(statistics.values())
        said = f"{corpus.place}: {unreadable:,} of {total:,} documents cannot be read. The first: {_shown(bad)}"
        if unreadable > MAX_UNREADABLE * total:
            raise InputError(f"{said}; wanted at most {MAX_UNREADABLE:.0%}: repair them or leave them out")
        log.warning("%s", said)
    if not statistics["read"]:
        raise InputError(f"mine.corpus={corpus.place}: no document with text in {corpus.field!r} (mine.corpus_field)")
    pieces = ((job.folder / name, rows) for result in results for name, rows in result["pieces"])
    return Documents(tuple(pieces), statistics)


def _check_start(kind: str, field: str, path: str) -> None:
    items = list(islice(read_table(path, kind), FIRST_ROWS if kind == "jsonl" else 1))
    names = Counter(name for item in items if not isinstance(item, Bad) for name in item[1])
    if names and field not in names:
        there = [str(name) for name, _ in names.most_common(20)]
        raise InputError(
            f"{path}: no field {field!r} in its {'first records' if len(items) > 1 else 'first record'}"
            f"{suggest(field, there)}; fields there: {', '.join(there)}; give mine.corpus_field=NAME"
        )


def _read_part(folder: Path, field: str, task: tuple[int, Part]) -> dict[str, Any]:
    number, part = task
    check_unchanged(part)
    counts = {"read": 0, "blank": 0, "unreadable": 0}
    first: list[Bad] = []
    pieces: list[tuple[str, int]] = []
    tally = Tally()
    for place, texts in enumerate(runs(_texts(part.records(tally), field, counts, first), len, PIECE_ROWS)):
        path = folder / f"corpus-{number:06d}-{place:06d}.arrow"
        write_array(_hash_file(path), hashes(texts))
        write_table(path, pa.table({"text": pa.array(texts, pa.large_string())}))
        pieces.append((path.name, len(texts)))
    check_unchanged(part)
    lines = tally.lines or sum(counts.values())
    return {"counts": counts, "pieces": pieces, "bad": [asdict(bad) for bad in first], "lines": lines}


def _places(todo: Sequence[Part], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What could not be read, each with its file and its line there; of a part at most two."""
    found: list[dict[str, Any]] = []
    before: Counter[str] = Counter()
    for part, result in zip(todo, results, strict=True):
        found += [bad | {"file": part.path, "line": bad["line"] + before[part.path]} for bad in result["bad"]]
        before[part.path] += result["lines"]
    return found


def _texts(records: Iterable[Record | Bad], field: str, counts: dict[str, int], first: list[Bad]) -> Iterator[str]:
    """Counts each record; the first that cannot be read, and one at which the file breaks off, go to `first`."""
    for item in records:
        found = item if isinstance(item, Bad) else _text(item[0], item[1].get(field), field, field in item[1])
        if isinstance(found, Bad):
            counts["unreadable"] += 1
            if not first or found.rest_lost:
                first.append(found)
        elif not found.strip():
            counts["blank"] += 1
        else:
            counts["read"] += 1
            yield found


def _text(line: int, value: Any, field: str, there: bool) -> str | Bad:
    if value is None:
        return Bad(line, f"field {field!r} is {'null' if there else 'missing'}")
    if isinstance(value, NotText):
        return Bad(line, f"field {field!r} is {value.reason}")
    if not isinstance(value, str):
        return Bad(line, f"field {field!r} is {type(value).__name__}; wanted text")
    try:
        return check_text(value)
    except ValueError as error:
        return Bad(line, reason(error))


def _shown(bad: dict[str, Any]) -> str:
    return f"{bad['file']} line {bad['line']}: {bad['reason']}"


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".hashes.npy")
