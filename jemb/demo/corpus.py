"""The demo's raw data: pairs, triplets and held-out tasks from the docstrings of the installed Python packages.

What the docstrings hold by nature stays in: copies from vendored packages, boiler-plate, markup, code, prose that says
nothing. The filters of `jemb prepare` come after this. Everything is a function of the installed packages, `max_pairs`
and `seed`.

    packages -> docstring -> Documented -> split by object -+-> train:    rows -> raw/ and raw_triplets/
                                                            +-> held out: retrieval/ and negation.jsonl
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet

from jemb.core.errors import InputError
from jemb.core.files import whole_folder
from jemb.demo.packages import Documented, digest, find_modules, fold, installed_roots, read_modules
from jemb.demo.rows import PAIR_SETS, TRIPLET_SETS, Row, negations_of

_HELD_OUT = 0.15
"""Share of the objects with a body that is held out: with the usual packages some 8 % of all objects."""
_MOST_COPIES = 3
"""Texts that more objects share are boiler-plate, no test of anything: such objects are never held out."""
_NUM_QUERIES = 400
_NUM_NEGATIONS = 500
_BYTES_PER_PAIR = 2_500


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
    objects = sorted(read_modules(modules), key=lambda item: digest(item.name, seed))
    texts = [item.texts for item in objects]
    held_out = _hold_out(objects, texts, seed)
    secret = {text for item in held_out for text in item.texts}
    train = [item for item, own in zip(objects, texts, strict=True) if secret.isdisjoint(own)]

    def open_rows(rows: Iterable[Row]) -> Iterator[Row]:
        return (row for row in rows if secret.isdisjoint(map(fold, _texts_of(row))))

    pairs = _limit({name: list(open_rows(kind.make(train))) for name, kind in PAIR_SETS.items()}, max_pairs)
    triplets = {
        name: list(islice(open_rows(make(train)), int(share * max_pairs)))
        for name, (make, share) in TRIPLET_SETS.items()
    }
    documents, queries = _retrieval_task(held_out)
    negations = [
        {"anchor": row["query"], "entailment": row["positive"], "negative": row["negatives"][0]}
        for row in islice(negations_of(held_out), _NUM_NEGATIONS)
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
            _write_rows(temporary / "raw" / f"{name}{PAIR_SETS[name].suffix}", rows)
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
        and digest(f"held out {item.name}", seed) < _HELD_OUT * 2**64
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
    left, weight = total, sum(PAIR_SETS[name].share for name in sets)
    for name in sorted(sets, key=lambda name: len(sets[name]) / PAIR_SETS[name].share):
        share = PAIR_SETS[name].share
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
