"""Tasks on cosines of sentence pairs: do they follow people's scores (STS), and is a sentence kept apart from its
minimally negated form (negation, arXiv 2307.11224)?

Before: `rows.py`, `vectors.py`. After: `run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jemb.core.errors import Failure, InputError
from jemb.evaluate.measure import Correlation, Mean, Measured, Score, Task
from jemb.evaluate.tasks.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines

TRIPLET = ("anchor", "entailment", "negative")


@dataclass(frozen=True)
class StsTask(Task):
    """N sentence pairs and people's scores of their similarity, on any scale that rises with similarity."""

    name: str
    sentence1: list[str] = field(repr=False)
    sentence2: list[str] = field(repr=False)
    scores: np.ndarray = field(repr=False)
    main = "spearman"

    def measure(self, encode: Encode) -> Measured:
        """{"spearman", "pearson"} of cosines and scores, percent, -100 to 100; ties share their mean rank."""
        vectors, (left, right) = encode_distinct(encode, "STS", (self.sentence1, None), (self.sentence2, None))
        cosines = pair_cosines(vectors, left, right)
        if np.ptp(cosines) == 0:
            raise Failure(
                f"{self.name}: the model gives every pair the same cosine ({cosines[0]:.6f}), so there is no "
                "correlation: it tells no texts apart"
            )
        ranks = {"spearman": True, "pearson": False}
        return Measured({name: Score.of(Correlation(cosines, self.scores, by)) for name, by in ranks.items()})


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
        groups = [(texts, None) for texts in (self.anchor, self.entailment, self.negative)]
        vectors, (a, e, n) = encode_distinct(encode, "STS", *groups)
        entailed = pair_cosines(vectors, a, e)
        return {
            "easy_negation": entailed > pair_cosines(vectors, a, n),
            "hard_negation": entailed > pair_cosines(vectors, e, n),
        }


def read_sts(path: Path, name: str) -> StsTask:
    """Fields `sentence1`, `sentence2`, `score`. `InputError` for an unreadable row or scores all alike."""
    rows = [(row.text("sentence1"), row.text("sentence2"), row.number("score")) for row in read_rows(path)]
    sentence1, sentence2, scores = map(list, zip(*rows, strict=True))
    if len(set(scores)) < 2:
        raise InputError(
            f"{path}: field 'score' is {scores[0]:g} in all {len(scores)} rows, and nothing correlates "
            "with a constant; wanted at least two different scores"
        )
    return StsTask(name, sentence1, sentence2, np.array(scores, np.float64))


def read_negation(path: Path, name: str) -> NegationTask:
    """Fields `anchor`, `entailment`, `negative`; without the first two: `query`, `positive`, `negative`."""
    fields: tuple[str, ...] = ()
    rows = []
    for row in read_rows(path):
        if not fields:
            plain = "anchor" in row.fields or "entailment" in row.fields or not {"query", "positive"} <= set(row.fields)
            fields = TRIPLET if plain else ("query", "positive", "negative")
        rows.append([row.text(field) for field in fields])
    return NegationTask(name, *map(list, zip(*rows, strict=True)))
