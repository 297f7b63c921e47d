"""A user's own documents, to mine hard negatives in: found and checked before any work, then read once into files.

Before: the option `mine.corpus`. After: `vectors/pool.py` has their vectors, hashes and texts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.plan import describe
from jemb.prepare.engine.read import read
from jemb.prepare.engine.table import Table, write_table
from jemb.prepare.engine.verdicts import add_up
from jemb.prepare.options import FIELD_OPTIONS, FieldsConfig
from jemb.prepare.source.check import NOWHERE, first_names
from jemb.prepare.source.sources import Source, find_in
from jemb.prepare.vectors.hard_negatives import hashes
from jemb.tables.places import base_name, each, to_local

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01
"""Share of unreadable documents above which the job stops."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the documents are: the text of one is the positive of its record."""

    sources: tuple[Source, ...]
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
    # Of a record the text alone is looked for; the other names are none that a record has.
    others: dict[str, Any] = {option: f"{NOWHERE}{option}" for option in FIELD_OPTIONS if option != "positive"}
    fields = FieldsConfig(positive=field, **others)
    corpus = Corpus(
        tuple(replace(one, fields=fields, documents=True) for one in find_in(to_local(place)).values()), place
    )
    titled: list[str] = []
    for source in corpus.sources:
        for path, (_, names) in zip(source.paths, each(partial(first_names, source), source.paths), strict=True):
            if names and field not in names:
                there = [name for name, _ in names.most_common(20)]
                raise InputError(
                    f"{path}: no field {field!r} in its first records{suggest(field, there)}; fields there: "
                    f"{', '.join(there)}; give mine.corpus_field=NAME"
                )
            if names["title"] and field != "title":
                titled.append(path)
    if titled:
        log.warning(
            "%s: its records have a title, which is not read: a document is the field %r alone (mine.corpus_field)",
            place if len(titled) > 1 else titled[0], field,
        )  # fmt: skip
    return corpus


def read_corpus(corpus: Corpus, job: Job) -> Documents:
    """All documents as Arrow files of a column `text`, in their order, without blank ones.

    Raises `InputError` where there is none, a file breaks off, or more than `MAX_UNREADABLE` cannot be read.
    """
    tables: list[Table] = []
    unreadable: list[str] = []
    for number, source in enumerate(corpus.sources):
        folder = job.folder / f"corpus-{number}"
        folder.mkdir(exist_ok=True)
        reading = read(source, replace(job, folder=folder, label=f"{job.label}: corpus"))
        tables.append(reading.table)
        unreadable += [f"{source.at(bad)}: {bad['reason']}" for bad in reading.unreadable]
        if bad := reading.broken:
            raise InputError(
                f"{corpus.place}: {source.at(bad)}: {bad['reason']}: an unknown number of documents is "
                "lost; get the file again"
            )
    tasks = [
        (Table((piece,)), job.folder / f"corpus-{number}-{place:06d}.arrow")
        for number, table in enumerate(tables)
        for place, piece in enumerate(table.pieces)
    ]
    sizes = [table.pieces[0].rows for table, _ in tasks]
    results = job.map("texts of corpus", _keep_texts, tasks, sizes=sizes)
    statistics = {"read": 0, "blank": 0} | add_up(results) | {"unreadable": len(unreadable)}
    if unreadable:
        total = sum(statistics.values())
        said = f"{corpus.place}: {len(unreadable):,} of {total:,} documents cannot be read. The first: {unreadable[0]}"
        if len(unreadable) > MAX_UNREADABLE * total:
            raise InputError(f"{said}; wanted at most {MAX_UNREADABLE:.0%}: repair them or leave them out")
        log.warning("%s", said)
    if not statistics["read"]:
        raise InputError(
            f"mine.corpus={corpus.place}: no document with text in {corpus.sources[0].fields.positive!r} "
            "(mine.corpus_field)"
        )
    files = ((path, result["read"]) for (_, path), result in zip(tasks, results, strict=True))
    return Documents(tuple(files), statistics)


def _keep_texts(task: tuple[Table, Path]) -> dict[str, Any]:
    table, path = task
    found = table.read(0, ("positive",)).positive
    texts = [text for text in found if text.strip()]
    write_array(_hash_file(path), hashes(texts))
    write_table(path, pa.table({"text": pa.array(texts, pa.large_string())}))
    return {"read": len(texts), "blank": len(found) - len(texts)}


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".hashes.npy")
