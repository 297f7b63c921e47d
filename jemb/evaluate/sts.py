"""Semantic textual similarity: do the cosines of sentence pairs rank them as people did?

Before: `rows.py`, `vectors.py`. After: `run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from jemb.errors import Failure, InputError
from jemb.evaluate.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines


@dataclass(frozen=True, slots=True)
class StsTask:
    """N sentence pairs and people's scores of their similarity, on any scale that rises with similarity."""

    name: str
    sentence1: list[str] = field(repr=False)
    sentence2: list[str] = field(repr=False)
    scores: np.ndarray = field(repr=False)

    def score(self, encode: Encode) -> dict[str, float]:
        """{"spearman", "pearson"} of cosines and scores, percent, -100 to 100; ties share their mean rank."""
        cosines = self.cosines(encode)
        if np.ptp(cosines) == 0:
            raise Failure(
                f"{self.name}: the model gives every pair the same cosine ({cosines[0]:.6f}), so there is no "
                "correlation: it tells no texts apart"
            )
        return correlations(cosines, self.scores)

    def cosines(self, encode: Encode) -> np.ndarray:
        """float64 [N]: the cosine of each pair."""
        vectors, (left, right) = encode_distinct(encode, self.sentence1, self.sentence2)
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


def correlations(cosines: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Spearman and Pearson correlation of two float [N], neither constant, in percent."""
    return {
        "spearman": 100 * float(stats.spearmanr(cosines, scores).statistic),
        "pearson": 100 * float(stats.pearsonr(cosines, scores).statistic),
    }
