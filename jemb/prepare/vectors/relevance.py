"""Scores of a cross-encoder for pairs of query and passage.

Before: `stages/cross_encoder.py`, and `stages/mine.py` for the passages it found. Both compare r(q, p) with r(q, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from jemb.core.errors import Failure
from jemb.prepare.engine.table import Rows
from jemb.prepare.registry import Score
from jemb.prepare.vectors.hard_negatives import Flags, Numbers, Scores

Relevance = npt.NDArray[np.float64]
Activation = Literal["logit", "sigmoid"]

BLOCK_ROWS = 1024
"""Rows whose candidates are scored at once: memory is that of their texts and tokens."""


@dataclass(frozen=True, slots=True)
class Reranker:
    """A cross-encoder's word on passages that an encoder found. Picklable. make: from the name to the model."""

    make: Callable[[str], Score]
    model: str

    def leads(
        self, rows: Rows, read_texts: Callable[[Numbers], dict[int, str]], chosen: Numbers, found: Numbers, left: Flags
    ) -> Scores:
        """r(q, p) - r(q, n) of each passage n that is `left`; 0 for the others, [B, K].

        chosen: [B], places in `rows`. found, left: [B, K]. read_texts: passages, which ascend, to their texts.
        """
        score = load_scorer(self.make, self.model)
        lead = np.zeros(left.shape, np.float32)
        for start in range(0, len(chosen), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            texts = read_texts(np.unique(found[part][left[part]]))
            pairs: list[tuple[str, str]] = []
            for row, passages, asked in zip(chosen[part].tolist(), found[part], left[part], strict=True):
                if asked.any():
                    answers = [rows.positive[row], *(texts[passage] for passage in passages[asked].tolist())]
                    pairs += [(rows.query[row], answer) for answer in answers]
            relevance = score_pairs(score, pairs) if pairs else np.empty(0)
            at = 0
            for place, asked in enumerate(left[part], start):
                if asked.any():
                    count = int(np.count_nonzero(asked))
                    lead[place, asked] = relevance[at] - relevance[at + 1 : at + 1 + count]
                    at += 1 + count
        return lead


def score_pairs(score: Score, pairs: list[tuple[str, str]], activation: Activation = "logit") -> Relevance:
    """The relevance [N] of each pair. Raises `Failure` when scores are missing or not finite."""
    scores = np.asarray(score(pairs), np.float64)
    if scores.shape != (len(pairs),):
        raise Failure(f"the cross-encoder gave {scores.shape} for {len(pairs)} pairs; wanted a number for each")
    if not np.isfinite(scores).all():
        query, passage = pairs[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise Failure(f"the cross-encoder gave no finite number for {query[:80]!r} with {passage[:80]!r}")
    # exp overflows to infinity, and 1 / infinity is the right 0.
    with np.errstate(over="ignore"):
        return scores if activation == "logit" else 1 / (1 + np.exp(-scores))


@lru_cache(maxsize=1)
def load_scorer(make_score: Callable[[str], Score], model: str) -> Score:
    """A process loads a model once."""
    return make_score(model)
