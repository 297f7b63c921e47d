"""The demo's raw data: pairs, triplets and held-out tasks from the docstrings of the installed Python packages.

What the docstrings hold by nature stays in: copies from vendored packages, boiler-plate, markup, code, prose that says
nothing. The filters of `jemb prepare` come after this. Everything is a function of the installed packages, `max_pairs`
and `seed`.

    packages -> Documented -> split by object -+-> train:    pairs_of, … -> raw/ and raw_triplets/
                                               +-> held out: retrieval/ and negation.jsonl
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.folders import whole_folder
from jemb.demo.packages import Documented, digest, find_modules, fold, installed_roots, read_modules, readable
from jemb.demo.reword import reword
from jemb.prepare.english import words
from jemb.prepare.negating import negate

Row = dict[str, Any]

PAIR_SETS = {"name_summary": 0.35, "summary_details": 0.35, "class_method": 0.2, "module_summary": 0.1}
"""Largest share of `max_pairs` of each data set."""
_TRIPLETS = 0.2
"""The same share, of each set of triplets."""
_HELD_OUT = 0.15
"""Share of the objects with details that is held out."""
_MOST_COPIES = 3
"""Texts that more objects share are boiler-plate, no test of anything: such objects are never held out."""
_NUM_QUERIES = 400
_NUM_NEGATIONS = 500
_BYTES_PER_PAIR = 2_500
_FEWEST_BYTES = 4_000_000
"""Of source, to be read whatever is asked for."""


def build_corpus(folder: Path, *, max_pairs: int, seed: int, roots: Sequence[Path] | None = None) -> dict[str, int]:
    """Write the demo's data under `folder`, which appears whole or not at all and replaces an older one.

    raw/NAME.jsonl: pairs, at most `max_pairs` together. raw_triplets/NAME.jsonl: `query positive negatives`.
    retrieval/: BEIR layout. negation.jsonl: `anchor entailment negative`. No summary and no details of a held-out
    object are a text of a training row, whatever object that row comes from.
    roots: folders with packages; the standard library and site-packages where not given.
    Returns {file: rows}. Raises InputError when there are too few docstrings for every file to have a row.
    """
    roots = installed_roots() if roots is None else roots
    modules = find_modules(roots, max(max_pairs * _BYTES_PER_PAIR, _FEWEST_BYTES))
    # In hash order, so that whoever takes the first n takes them from everywhere.
    objects = sorted(read_modules(modules), key=lambda item: digest(item.name, seed))
    held_out = _hold_out(objects, seed)
    secret = {text for item in held_out for text in item.texts}
    train = [item for item in objects if secret.isdisjoint(item.texts)]

    def first_open(rows: Iterable[Row], share: float) -> list[Row]:
        return list(
            islice((row for row in rows if secret.isdisjoint(map(fold, _texts_of(row)))), int(share * max_pairs))
        )

    classes = {item.name: item for item in train if item.kind == "class"}
    pairs: dict[str, list[Row]] = {name: [] for name in PAIR_SETS}
    for name, query, positive in (pair for item in train for pair in pairs_of(item, classes.get(item.owner))):
        pairs[name].append({"query": query, "positive": positive})
    documents, queries, judgements = _retrieval_task(held_out)
    files = {
        **{f"raw/{name}.jsonl": first_open(pairs[name], share) for name, share in PAIR_SETS.items()},
        "raw_triplets/siblings.jsonl": first_open(siblings_of(train), _TRIPLETS),
        "raw_triplets/negation.jsonl": first_open(negations_of(train), _TRIPLETS),
        "retrieval/corpus.jsonl": documents,
        "retrieval/queries.jsonl": queries,
        "retrieval/qrels/test.tsv": judgements,
        "negation.jsonl": [
            {"anchor": row["query"], "entailment": row["positive"], "negative": row["negatives"][0]}
            for row in islice(negations_of(held_out), _NUM_NEGATIONS)
        ],
    }
    if empty := [file for file, rows in files.items() if not rows]:
        raise InputError(
            f"the docstrings of the installed packages ({len(objects)} found in {len(modules)} files) give nothing "
            f"for {', '.join(empty)}: raise max_pairs (now {max_pairs}), or install packages with their sources"
        )
    with whole_folder(folder) as temporary:
        for file, rows in files.items():
            _write_rows(temporary / file, rows)
    return {file: len(rows) for file, rows in files.items()}


def pairs_of(item: Documented, owner: Documented | None) -> Iterator[tuple[str, str, str]]:
    """(data set, query, positive) of what the parts of an object say of each other. owner: the class it is in."""
    if item.kind == "module":
        yield "module_summary", readable(item.name), f"{item.summary} {item.details}".strip()
    else:
        arguments = f" ({', '.join(item.arguments)})" if item.arguments else ""
        yield "name_summary", readable(item.name) + arguments, item.summary
    if item.details:
        yield "summary_details", item.summary, item.details
    if item.kind == "function" and owner:
        yield "class_method", f"{owner.summary} {readable(item.name.rpartition('.')[2])}", item.summary


def siblings_of(objects: Sequence[Documented]) -> Iterator[Row]:
    """Summary, own details, and as negatives the details of up to two others in the same class or module."""
    families: dict[str, list[Documented]] = defaultdict(list)
    for item in objects:
        if item.details and item.kind != "module":
            families[item.owner].append(item)
    for family in families.values():
        for index, item in enumerate(family):
            others = dict.fromkeys(other.details for other in family[index + 1 :] + family[:index])
            different = (text for text in others if fold(text) != fold(item.details))
            if negatives := list(islice(different, 2)):
                yield {"query": item.summary, "positive": item.details, "negatives": negatives}


def negations_of(objects: Sequence[Documented]) -> Iterator[Row]:
    """A summary in other words, the summary, and its negation.

    Only where the negation shares more words with the summary than the other wording does: counting words must not
    solve it.
    """
    for summary in dict.fromkeys(item.summary for item in objects):
        if 4 <= len(summary.split()) <= 25 and re.fullmatch(r"[A-Z][\w ,.()'-]+", summary):
            anchor, negative = reword(summary), negate(summary)
            if anchor and negative and 0.35 <= _overlap(anchor, summary) < _overlap(summary, negative):
                yield {"query": anchor, "positive": summary, "negatives": [negative]}


def _overlap(one: str, other: str) -> float:
    """Dice coefficient of the words of two texts; 1 for the same words."""
    first, second = Counter(words(one)), Counter(words(other))
    return 2 * (first & second).total() / max(first.total() + second.total(), 1)


def _hold_out(objects: Sequence[Documented], seed: int) -> list[Documented]:
    """The objects that training must not see, chosen by a hash of the name among those with details of their own."""
    copies = Counter(text for item in objects for text in item.texts)
    return [
        item
        for item in objects
        if fold(item.details)
        and max(copies[text] for text in item.texts) <= _MOST_COPIES
        and digest(f"held out {item.name}", seed) < _HELD_OUT * 2**64
    ]


def _retrieval_task(held_out: Sequence[Documented]) -> tuple[list[Row], list[Row], list[Row]]:
    """(documents, queries, judgements): find an object's details by its summary among those of all held-out objects."""
    by_details = {fold(item.details): item for item in reversed(held_out)}  # one of those with the same text
    summaries = Counter(fold(item.summary) for item in held_out)
    asked = (
        item
        for details, item in by_details.items()
        if summaries[fold(item.summary)] == 1
        and fold(item.summary) not in details
        and _is_prose(item.summary, num_words=4)
        and _is_prose(item.details, num_words=12)
    )
    documents = [{"_id": item.name, "title": "", "text": item.details} for item in by_details.values()]
    chosen = list(enumerate(islice(asked, _NUM_QUERIES)))
    queries = [{"_id": f"q{number}", "text": item.summary} for number, item in chosen]
    return documents, queries, [{"query-id": f"q{n}", "corpus-id": item.name, "score": 1} for n, item in chosen]


def _is_prose(text: str, num_words: int) -> bool:
    """At least `num_words` words, most of it letters, and no interpreter session."""
    letters = sum(char.isalpha() or char.isspace() for char in text)
    return len(text.split()) >= num_words and letters > 0.85 * len(text) and ">>>" not in text


def _texts_of(row: Row) -> list[str]:
    return [row["query"], row["positive"], *row.get("negatives", [])]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """JSON lines, or what the end of its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in (rows[0], *(r.values() for r in rows))))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
