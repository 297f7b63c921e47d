"""The demo's raw data: pairs, triplets and held-out tasks from the docstrings of the installed Python packages.

What the docstrings hold by nature stays in: copies from vendored packages, boiler-plate, markup, code, prose that says
nothing. The filters of `jemb prepare` come after this. Everything is a function of the installed packages, `max_pairs`
and `seed`.

    packages -> docstring -> Documented -> split by object -+-> train:    pairs_of, … -> raw/ and raw_triplets/
                                                            +-> held out: retrieval/ and negation.jsonl
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from jemb.core.errors import InputError
from jemb.core.files import whole_folder
from jemb.demo.packages import Documented, cut, digest, find_modules, fold, installed_roots, read_modules, readable
from jemb.demo.reword import reword
from jemb.prepare.english import words
from jemb.prepare.negating import negate

Row = dict[str, Any]

PAIR_SETS = {
    "name_summary": (0.24, ".jsonl"),
    "summary_details": (0.30, ".jsonl"),
    "parameter_description": (0.16, ".parquet"),
    "returns_description": (0.08, ".jsonl"),
    "class_method": (0.07, ".csv"),
    "raises": (0.09, ".jsonl"),
    "module_summary": (0.06, ".jsonl.gz"),
}
"""(share of `max_pairs`, beside what other sets leave; format, so that each reader of `prepare` has its turn)."""
_TRIPLETS = 0.2
"""The same share, of each set of triplets."""
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

    classes = {item.name: item for item in train if item.kind == "class"}
    made: dict[str, list[Row]] = {name: [] for name in PAIR_SETS}
    for name, query, positive in (pair for item in train for pair in pairs_of(item, classes.get(item.owner))):
        made[name].append({"query": query, "positive": positive})
    pairs = _limit({name: list(open_rows(rows)) for name, rows in made.items()}, max_pairs)
    triplets = {
        name: list(islice(open_rows(rows), int(_TRIPLETS * max_pairs)))
        for name, rows in (("siblings", siblings_of(train)), ("negation", negations_of(train)))
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
    judgements = [{"query-id": row["_id"], "corpus-id": row.pop("document"), "score": 1} for row in queries]
    files = {
        **{f"raw/{name}{PAIR_SETS[name][1]}": rows for name, rows in pairs.items()},
        **{f"raw_triplets/{name}.jsonl": rows for name, rows in triplets.items()},
        "negation.jsonl": negations,
        "retrieval/corpus.jsonl": documents,
        "retrieval/queries.jsonl": queries,
        "retrieval/qrels/test.tsv": judgements,
    }
    with whole_folder(folder) as temporary:
        for place, rows in files.items():
            _write_rows(temporary / place, rows)
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


def pairs_of(item: Documented, owner: Documented | None) -> Iterator[tuple[str, str, str]]:
    """(data set, query, positive) of what the parts of an object say of each other. owner: the class it is in."""
    doc = item.doc
    if item.kind == "module":
        yield "module_summary", readable(item.name), cut(f"{doc.summary} {item.explanation}")
    else:
        arguments = f" ({', '.join(item.arguments)})" if item.arguments else ""
        yield "name_summary", readable(item.name) + arguments, doc.summary
    if item.explanation:
        yield "summary_details", doc.summary, item.explanation
    for name, text in doc.parameters:
        yield "parameter_description", f"{name} of {item.title}: {doc.summary}", cut(text)
    if doc.returns:
        yield "returns_description", f"result of {item.title}: {doc.summary}", cut(doc.returns)
    for error, text in doc.raises:
        yield "raises", f"{error} in {item.title}", cut(text)
    if item.kind == "function" and owner:
        yield "class_method", f"{owner.doc.summary} {readable(item.name.rpartition('.')[2])}", doc.summary


def siblings_of(objects: Sequence[Documented]) -> Iterator[Row]:
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


def negations_of(objects: Sequence[Documented]) -> Iterator[Row]:
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
    shares = {name: PAIR_SETS[name][0] for name in sets}
    left, weight = total, sum(shares.values())
    for name, share in sorted(shares.items(), key=lambda item: len(sets[item[0]]) / item[1]):
        limits[name] = min(len(sets[name]), round(left * share / weight))
        left, weight = left - limits[name], weight - share
    return {name: rows[: limits[name]] for name, rows in sets.items()}


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One file in the format its suffix names; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix in (".csv", ".tsv"):
        separator, end = (",", "\r\n") if path.suffix == ".csv" else ("\t", "\n")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator=end)
            writer.writeheader()
            writer.writerows(rows)
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
