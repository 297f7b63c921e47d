"""Keep a negative only if a cross-encoder, too, finds the positive clearly better (arXiv 2307.11224).

Before: `mine.py` or `negation.py`, or the data set's own negatives. After: `write.py`. A triplet (q, p, n) stays iff
r(q, p) - r(q, n) > kappa, with r the cross-encoder: what scores nearly as high as the positive may be another right
answer.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from jemb.config import Positive, options
from jemb.prepare.engine.table import Rows, Verdict, histogram
from jemb.prepare.registry import Score, StageInputs, Statistic, stage
from jemb.prepare.vectors.relevance import load_scorer, score_pairs

Margins = npt.NDArray[np.float64]

ROWS = 4096
"""Rows whose pairs are scored in one call: memory is that of their tokens."""
BINS = 80
LARGEST = {"logit": 20.0, "sigmoid": 1.0}
"""The histogram of margins runs from -x to x; what lies beyond is counted at its end."""


@options
class CrossEncoderConfig:
    """Triplet filter of the paper: keep a negative n of (q, p) only if r(q, p) - r(q, n) > kappa."""

    model: str = "cross-encoder/ms-marco-MiniLM-L-6-v2"
    """Cross-encoder r with one output: a folder or a Hugging Face name."""
    kappa: Annotated[float, Field(allow_inf_nan=False)] = 0.2
    """What the positive must score more than the negative, in units of `activation`."""
    activation: Literal["logit", "sigmoid"] = "logit"
    """r is the model's raw output, or that squeezed into 0 to 1."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a query with its passage is cut at; null: the model's own limit, 512 where it has none."""
    batch_tokens: Positive | None = None
    """Tokens scored at once, padding included; null: what suits the device."""


@stage(
    "cross_encoder",
    reasons={"cross_encoder": "no negative scores far enough below the positive"},
    options=CrossEncoderConfig,
    of_answers=True,
    statistics={
        "margin": Statistic("Lead of the positive over a negative", "negatives", "r(q, p) − r(q, n)", "kappa"),
        "negatives": Statistic("Negatives", "negatives"),
        "pairs": Statistic("Rows without negatives"),
    },
    after="mine",
    gpu=True,
    speed_only=("batch_tokens",),
    advice="the negatives answer the queries as well as the positives do",
)
def cross_encoder(rows: Rows, options: CrossEncoderConfig, inputs: StageInputs) -> Verdict:
    """Take out the negatives n with r(q, p) - r(q, n) <= kappa, and drop a row that loses its last one.

    Reason: `cross_encoder`, with the row's largest margin in the note. A row without negatives is a pair, of which the
    rule says nothing: it passes, so that sources of pairs and of triplets can go through one job. A process loads the
    model once. Statistics: a histogram of the margins of all negatives; `pairs`, rows without any; negatives `kept` and
    `removed`. Raises `Failure` when scores are missing or not finite.
    """
    verdict = Verdict()
    changed: list[tuple[str, ...]] = []
    largest = LARGEST[options.activation]
    found: list[Margins] = [np.empty(0)]
    score = load_scorer(inputs.tools.cross_encoder(options), options.model) if any(rows.negatives) else None
    for start in range(0, len(rows), ROWS):
        negatives = rows.negatives[start : start + ROWS]
        for position, (texts, margins) in enumerate(
            zip(negatives, _margins(rows, start, score, options), strict=True), start
        ):
            kept = tuple(text for text, margin in zip(texts, margins, strict=True) if margin > options.kappa)
            if texts and not kept:
                verdict.dropped[position] = ("cross_encoder", f"margin {margins.max():.3f}")
            found.append(margins)
            changed.append(kept)
    total, left = (sum(map(len, part)) for part in (rows.negatives, changed))
    if left < total:
        verdict.negatives = changed
    verdict.statistics = {
        "margin": histogram(np.concatenate(found), BINS, -largest, largest),
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
    relevance = score_pairs(score, pairs, config.activation)
    margins: list[Margins] = []
    at = 0
    for texts in negatives:
        margins.append(relevance[at] - relevance[at + 1 : at + 1 + len(texts)] if texts else np.empty(0))
        at += 1 + len(texts) if texts else 0
    return margins
