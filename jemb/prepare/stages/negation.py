"""Triplets from entailment pairs: the entailment, minimally negated by rule, becomes the negative (arXiv 2307.11224).

The paper's negation data are `anchor, entailment, negative` with an edit of the entailment that turns it round. The
rules are in `jemb/prepare/negating.py`.
"""

from __future__ import annotations

from typing import Literal

from jemb.config import options
from jemb.core.text import normalise
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.negating import negate
from jemb.prepare.registry import StageInputs, Statistic, stage


@options
class NegationConfig:
    """Triplets from entailment pairs: the positive, minimally negated, becomes the negative of a pair without one."""

    unmatched: Literal["drop", "keep"] = "drop"
    """What to do with a pair that no rule can negate soundly. `keep` is of use where `mine` gives it a negative."""


@stage(
    "negation",
    reasons={"not_negatable": "no rule negates the positive soundly"},
    options=NegationConfig,
    of_answers=True,
    statistics={
        "negated": Statistic("Rows given a negation"),
        "had_negatives": Statistic("Rows that had negatives"),
    },
    after="consistency",
    adds_negatives=True,
    advice="the rules know single English sentences alone; negation.unmatched=keep leaves the other rows",
    version=2,
)
def add_negations(rows: Rows, options: NegationConfig, inputs: StageInputs) -> Verdict:
    """Give each row without negatives its negated positive; rows that have some stay as they are.

    Reason, with `unmatched="drop"`: `not_negatable`, where `negate` finds nothing or nothing new. Statistics: `negated`
    and `had_negatives` rows.
    """
    verdict = Verdict()
    changed = list(rows.negatives)
    for position, (query, positive) in enumerate(zip(rows.query, rows.positive, strict=True)):
        if changed[position]:
            continue
        new = negate(positive.strip())
        if new is not None and normalise(new) not in (normalise(positive), normalise(query)):
            changed[position] = (new,)
        elif options.unmatched == "drop":
            verdict.drop(position, "not_negatable")
    had = sum(map(bool, rows.negatives))
    if changed != rows.negatives:
        verdict.negatives = changed
    verdict.statistics = {"negated": sum(map(bool, changed)) - had, "had_negatives": had}
    return verdict
