"""Semantic textual similarity: do the cosines of sentence pairs rank them as people did?

Before: `rows.py`, `vectors.py`. After: `run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jemb.core.errors import Failure, InputError
from jemb.evaluate.measure import Correlation, Measured, Score, Task
from jemb.evaluate.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines, prompted


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
        cosines = self.cosines(encode)
        if np.ptp(cosines) == 0:
            raise Failure(
                f"{self.name}: the model gives every pair the same cosine ({cosines[0]:.6f}), so there is no "
                "correlation: it tells no texts apart"
            )
        ranks = {"spearman": True, "pearson": False}
        return Measured({name: Score.of(Correlation(cosines, self.scores, by)) for name, by in ranks.items()})

    def cosines(self, encode: Encode) -> np.ndarray:
        """float64 [N]: the cosine of each pair."""
        groups = (prompted(encode, texts, "STS") for texts in (self.sentence1, self.sentence2))
        vectors, (left, right) = encode_distinct(encode, *groups)
        return pair_cosines(vectors, left, right)


def read_sts(path: Path, name: str) -> StsTask:
    """Fields `sentence1`, `sentence2`, `score`. `InputError` for an unreadable row or scores all alike."""
    sentence1, sentence2, scores = [], [], []
    for row in read_rows(path):
        sentence1.append(row.text("sentence1"))
        sentence2.append(row.text("sentence2"))
        scores.append(row.number("score"))
    if len(set(scores)) < 2:
        raise InputError(
            f"{path}: field 'score' is {scores[0]:g} in all {len(scores)} rows, and nothing correlates "
            "with a constant; wanted at least two different scores"
        )
    return StsTask(name, sentence1, sentence2, np.array(scores, np.float64))
