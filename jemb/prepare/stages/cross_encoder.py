"""Keep a negative only if a cross-encoder, too, finds the positive clearly better (arXiv 2307.11224).

Before: `mine.py` or `negation.py`, or the data set's own negatives. After: `write.py`. A triplet (q, p, n) stays iff
r(q, p) - r(q, n) > kappa, with r the cross-encoder: what scores nearly as high as the positive may be another right
answer. A pair may be asked for a least r(q, p), and the scores may be written into the rows, as a teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.errors import Failure
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.engine.verdicts import histogram
from jemb.prepare.registry import Score, StageInputs, Statistic, stage

Relevance = npt.NDArray[np.float64]

ROWS = 4096
"""Rows whose pairs are scored in one call: memory is that of their tokens."""
BINS = 80
LARGEST = 20.0
"""The histogram of margins runs from -x to x; what lies beyond is counted at its end."""


@options
class CrossEncoderConfig:
    """Triplet filter of the paper: keep a negative n of (q, p) only if r(q, p) - r(q, n) > kappa. A filter of pairs and
    a teacher besides."""

    model: str = "cross-encoder/ms-marco-MiniLM-L-6-v2"
    """Cross-encoder r with one output: a folder or a Hugging Face name."""
    kappa: Annotated[float, Field(allow_inf_nan=False)] | None = 0.2
    """What the positive must score more than the negative, in the model's raw output; null: all negatives stay."""
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Least score of a positive, in the model's raw output: a row whose positive has less is dropped, also one without
    negatives, and a further positive that has less is taken out; null: no such bound."""
    write_scores: bool = False
    """Write the scores of a row's positives and negatives into the row, which makes a data set of kind distill; scores
    that the input has are replaced."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a query with its passage is cut at; null: the model's own limit, 512 where it has none."""
    batch_tokens: Positive | None = None
    """Tokens scored at once, padding included; null: what suits the device."""

    def __post_init__(self) -> None:
        if self.kappa is None and self.min_score is None and not self.write_scores:
            raise ValueError(
                "cross_encoder.kappa=null leaves nothing to do; wanted a number, or cross_encoder.min_score=…, or "
                "cross_encoder.write_scores=true"
            )


@stage(
    "cross_encoder",
    reasons={
        "cross_encoder": "no negative scores far enough below the positive",
        "low_score": "the positive scores below `min_score`",
    },
    options=CrossEncoderConfig,
    of_answers=True,
    statistics={
        "positive": Statistic("Score of the positive", axis="r(q, p)", setting="min_score"),
        "margin": Statistic("Lead of the positive over a negative", "negatives", "r(q, p) − r(q, n)", "kappa"),
        "negatives": Statistic("Negatives", "negatives"),
        "further_positives": Statistic("Further positives", "positives"),
        "pairs": Statistic("Rows without negatives"),
    },
    after="mine",
    columns=("query", "positive", "negatives", "more_positives"),
    gpu=True,
    speed_only=("batch_tokens",),
    writes_scores="write_scores",
    advice="the negatives answer the queries as well as the positives do, or the positives do not answer them",
)
def cross_encoder(rows: Rows, options: CrossEncoderConfig, inputs: StageInputs) -> Verdict:
    """Take out the negatives n with r(q, p) - r(q, n) <= kappa, and drop a row that loses its last one.

    Reason: `cross_encoder`, with the row's largest margin in the note. A row without negatives is a pair, of which the
    rule says nothing: it passes, so that sources of pairs and of triplets can go through one job. With `min_score` a
    row is dropped as `low_score`, with r(q, p) in the note, and a further positive below it is taken out. With
    `write_scores` the scores of what is left go into the rows. A process loads the model once.
    Statistics: a histogram of r(q, p) of the rows that were scored, and of the margins of all negatives; `pairs`, rows
    without any; negatives, and with `min_score` further positives, `kept` and `removed`. Raises `Failure` when scores
    are missing or not finite.
    """
    verdict = Verdict()
    every = options.write_scores or options.min_score is not None
    negatives: list[tuple[str, ...]] = []
    further: list[tuple[str, ...]] = []
    scores: list[tuple[float | None, ...]] = []
    own: list[Relevance] = [np.empty(0)]
    margins: list[Relevance] = [np.empty(0)]
    for start in range(0, len(rows), ROWS):
        part = range(start, min(start + ROWS, len(rows)))
        # Unless all are wanted, no further positive is scored, and nothing of a row without negatives.
        asked = [
            (
                rows.query[row],
                [rows.positive[row], *(rows.more_positives[row] if every else ()), *rows.negatives[row]]
                if every or rows.negatives[row]
                else [],
            )
            for row in part
        ]
        found = score_answers(inputs.tools.cross_encoder(options), options.model, asked)
        for row, relevance in zip(part, found, strict=True):
            good, rest = relevance[:1], relevance[1:]
            more, bad = np.split(rest, [len(rest) - len(rows.negatives[row])])
            lead = good - bad
            stays = np.ones(len(bad), bool) if options.kappa is None else lead > options.kappa
            right = np.ones(len(more), bool) if options.min_score is None else more >= options.min_score
            if options.min_score is not None and good[0] < options.min_score:
                verdict.drop(row, "low_score", f"score {good[0]:.3f}")
            elif len(bad) and not stays.any():
                verdict.drop(row, "cross_encoder", f"margin {lead.max():.3f}")
            own.append(good)
            margins.append(lead)
            negatives.append(tuple(compress(rows.negatives[row], stays)))
            further.append(tuple(compress(rows.more_positives[row], right)))
            if options.write_scores:
                scores.append((*good.tolist(), *more[right].tolist(), *bad[stays].tolist()))
    total, left = (sum(map(len, part)) for part in (rows.negatives, negatives))
    verdict.statistics = {
        "positive": histogram(np.concatenate(own), BINS, -LARGEST, LARGEST),
        "margin": histogram(np.concatenate(margins), BINS, -LARGEST, LARGEST),
        "negatives": {"kept": left, "removed": total - left},
        "pairs": sum(not texts for texts in rows.negatives),
    }
    if left < total:
        verdict.negatives = negatives
    if options.min_score is not None:
        total, left = (sum(map(len, part)) for part in (rows.more_positives, further))
        verdict.statistics["further_positives"] = {"kept": left, "removed": total - left}
        if left < total:
            verdict.more_positives = further
    if options.write_scores:
        verdict.scores = scores
    return verdict


def score_answers(
    make: Callable[[str], Score], model: str, asked: Sequence[tuple[str, Sequence[str]]]
) -> list[Relevance]:
    """r(q, .) of the answers to each query; no model is loaded where there are none.

    make: from the model's name to the model. Raises `Failure` when scores are missing or not finite.
    """
    pairs = [(query, answer) for query, answers in asked for answer in answers]
    found = np.empty(0)
    if pairs:
        found = np.asarray(load_scorer(make, model)(pairs), np.float64)
    if found.shape != (len(pairs),):
        raise Failure(f"the cross-encoder gave {found.shape} for {len(pairs)} pairs; wanted a number for each")
    if not np.isfinite(found).all():
        query, answer = pairs[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise Failure(f"the cross-encoder gave no finite number for {query[:80]!r} with {answer[:80]!r}")
    return np.split(found, np.cumsum([len(answers) for _, answers in asked])[:-1])


@lru_cache(maxsize=1)
def load_scorer(make: Callable[[str], Score], model: str) -> Score:
    """A process loads a model once."""
    return make(model)
