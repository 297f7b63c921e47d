"""The demo's data sets: pairs and triplets made of the parts of documented objects.

Before: `packages.py` finds the objects. After: `corpus.py` chooses among the rows and writes them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from jemb.demo.packages import Documented, cut, fold, readable
from jemb.demo.reword import reword
from jemb.prepare.english import words
from jemb.prepare.stages.negation import negate

Row = dict[str, Any]


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
            yield {"query": f"{name} of {item.title}: {item.doc.summary}", "positive": cut(text)}


def _returns_description(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        if item.doc.returns:
            yield {"query": f"result of {item.title}: {item.doc.summary}", "positive": cut(item.doc.returns)}


def _raises(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        for error, text in item.doc.raises:
            yield {"query": f"{error} in {item.title}", "positive": cut(text)}


def _class_method(objects: Sequence[Documented]) -> Iterator[Row]:
    classes = {item.name: item for item in objects if item.kind == "class"}
    for item in objects:
        if item.kind == "function" and item.owner in classes:
            method = readable(item.name.rpartition(".")[2])
            yield {"query": f"{classes[item.owner].doc.summary} {method}", "positive": item.doc.summary}


def _module_summary(objects: Sequence[Documented]) -> Iterator[Row]:
    for item in objects:
        if item.kind == "module":
            yield {"query": readable(item.name), "positive": cut(f"{item.doc.summary} {item.explanation}")}


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


class PairSet(NamedTuple):
    make: Callable[[Sequence[Documented]], Iterator[Row]]
    share: float
    """Of `max_pairs`; what other sets leave comes on top."""
    suffix: str
    """File format: different readers of `jemb prepare` get their turn."""


PAIR_SETS = {
    "name_summary": PairSet(_name_summary, 0.24, ".jsonl"),
    "summary_details": PairSet(_summary_details, 0.30, ".jsonl"),
    "parameter_description": PairSet(_parameter_description, 0.16, ".parquet"),
    "returns_description": PairSet(_returns_description, 0.08, ".jsonl"),
    "class_method": PairSet(_class_method, 0.07, ".csv"),
    "raises": PairSet(_raises, 0.09, ".jsonl"),
    "module_summary": PairSet(_module_summary, 0.06, ".jsonl.gz"),
}
TRIPLET_SETS = {"siblings": (_siblings, 0.2), "negation": (negations_of, 0.2)}
