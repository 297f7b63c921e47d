"""Last stage: keep a negative only if a cross-encoder, too, finds the positive clearly better (arXiv 2307.11224).

Before: `mine.py` or `negation.py`, or the data set's own negatives. After: `write.py`. A triplet (q, p, n) stays iff
r(q, p) - r(q, n) > kappa, with r the cross-encoder: what scores nearly as high as the positive may be another right
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from jemb.config import CrossEncoderConfig
from jemb.errors import Failure
from jemb.prepare.table import Rows, Verdict
from jemb.prepare.tools import Score

Margins = npt.NDArray[np.float64]

ROWS = 4096
"""Rows whose pairs are scored in one call: memory is that of their tokens."""
BINS = 80
LARGEST = {"logit": 20.0, "sigmoid": 1.0}
"""The histogram of margins runs from -x to x; what lies beyond is counted at its end."""


def cross_encoder(rows: Rows, config: CrossEncoderConfig, make_score: Callable[[str], Score]) -> Verdict:
    """Take out the negatives n with r(q, p) - r(q, n) <= kappa, and drop a row that loses its last one.

    Reason: `cross_encoder`, with the row's largest margin in the note. A row without negatives is a pair, of which the
    rule says nothing: it passes, so that sources of pairs and of triplets can go through one job. make_score:
    `config.model` to the function; must be hashable, with copies that were pickled equal to it: a process calls it once
    for each model. Statistics: a histogram of the margins of all negatives; `pairs`, rows without any; negatives
    `kept` and `removed`. Raises `Failure` when scores are missing or not finite.
    """
    verdict = Verdict()
    changed: list[tuple[str, ...]] = []
    counts = np.zeros(BINS, np.int64)
    score = _scorer(make_score, config.model) if any(rows.negatives) else None
    for start in range(0, len(rows), ROWS):
        negatives = rows.negatives[start : start + ROWS]
        for position, (texts, margins) in enumerate(
            zip(negatives, _margins(rows, start, score, config), strict=True), start
        ):
            kept = tuple(text for text, margin in zip(texts, margins, strict=True) if margin > config.kappa)
            if texts and not kept:
                verdict.dropped[position] = ("cross_encoder", f"margin {margins.max():.3f}")
            counts += _histogram(margins, LARGEST[config.activation])
            changed.append(kept)
    total, left = (sum(map(len, part)) for part in (rows.negatives, changed))
    if left < total:
        verdict.negatives = changed
    largest = LARGEST[config.activation]
    verdict.statistics = {
        "margin": {"from": -largest, "to": largest, "counts": counts.tolist()},
        "negatives": {"kept": left, "removed": total - left},
        "pairs": sum(not texts for texts in rows.negatives),
    }
    return verdict


def _margins(rows: Rows, start: int, score: Score | None, config: CrossEncoderConfig) -> list[Margins]:
    """r(q, p) - r(q, n) of each negative of each of the `ROWS` rows from `start` on."""
    part = slice(start, start + ROWS)
    negatives = rows.negatives[part]
    pairs: list[tuple[str, str]] = []
    for query, positive, texts in zip(rows.query[part], rows.positive[part], negatives, strict=True):
        if texts:
            pairs += [(query, text) for text in (positive, *texts)]
    if not pairs or score is None:
        return [np.empty(0) for _ in negatives]
    relevance = _relevance(score, pairs, config.activation)
    margins: list[Margins] = []
    at = 0
    for texts in negatives:
        margins.append(relevance[at] - relevance[at + 1 : at + 1 + len(texts)] if texts else np.empty(0))
        at += 1 + len(texts) if texts else 0
    return margins


def _relevance(score: Score, pairs: list[tuple[str, str]], activation: str) -> Margins:
    scores = np.asarray(score(pairs), np.float64)
    if scores.shape != (len(pairs),):
        raise Failure(f"the cross-encoder gave {scores.shape} for {len(pairs)} pairs; wanted a number for each")
    if not np.isfinite(scores).all():
        query, passage = pairs[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise Failure(f"the cross-encoder gave no finite number for {query[:80]!r} with {passage[:80]!r}")
    # exp overflows to infinity, and 1 / infinity is the right 0.
    with np.errstate(over="ignore"):
        return scores if activation == "logit" else 1 / (1 + np.exp(-scores))


def _histogram(margins: Margins, largest: float) -> npt.NDArray[np.int64]:
    bins = np.floor((margins + largest) / (2 * largest) * BINS).astype(np.int64)
    return np.bincount(bins.clip(0, BINS - 1), minlength=BINS)


@lru_cache(maxsize=1)
def _scorer(make_score: Callable[[str], Score], model: str) -> Score:
    return make_score(model)
