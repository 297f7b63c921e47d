"""Negation: does the model keep a sentence apart from its minimally negated form? Paper: arXiv 2307.11224.

Before: `rows.py`, `vectors.py`. After: `run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jemb.evaluate.measure import Mean, Measured, Score, Task
from jemb.evaluate.rows import Row, read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines, prompted

FIELDS = ("anchor", "entailment", "negative")
TRIPLET_FIELDS = ("query", "positive", "negative")


@dataclass(frozen=True)
class NegationTask(Task):
    """N triplets: an anchor a, a sentence e it entails, and a negative n, which is e negated."""

    name: str
    anchor: list[str] = field(repr=False)
    entailment: list[str] = field(repr=False)
    negative: list[str] = field(repr=False)
    main = "hard_negation"

    def measure(self, encode: Encode) -> Measured:
        """{"easy_negation", "hard_negation"} in percent, 0 to 100: the means of `wins`."""
        return Measured({metric: Score.of(Mean(100.0 * won)) for metric, won in self.wins(encode).items()})

    def wins(self, encode: Encode) -> dict[str, np.ndarray]:
        """bool [N] each: easy where s(a,e) > s(a,n), hard where s(a,e) > s(e,n). Equal cosines do not win."""
        groups = (prompted(encode, texts, "STS") for texts in (self.anchor, self.entailment, self.negative))
        vectors, (a, e, n) = encode_distinct(encode, *groups)
        entailed = pair_cosines(vectors, a, e)
        return {
            "easy_negation": entailed > pair_cosines(vectors, a, n),
            "hard_negation": entailed > pair_cosines(vectors, e, n),
        }


def read_negation(path: Path, name: str) -> NegationTask:
    """Fields `anchor`, `entailment`, `negative`; without the first two: `query`, `positive`, `negative`."""
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    fields: tuple[str, ...] = ()
    for row in read_rows(path):
        fields = fields or _choose(row)
        for column, name_of_field in zip(columns, fields, strict=True):
            column.append(row.text(name_of_field))
    return NegationTask(name, *columns)


def _choose(first: Row) -> tuple[str, ...]:
    plain = "anchor" in first.fields or "entailment" in first.fields
    return TRIPLET_FIELDS if not plain and {"query", "positive"} <= set(first.fields) else FIELDS
