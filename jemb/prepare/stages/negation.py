"""Triplets from entailment pairs: the entailment, minimally negated by rule, becomes the negative (arXiv 2307.11224).

The paper's negation data are `anchor, entailment, negative` with an edit of the entailment that turns it round. The
rules look for the verb of the main clause and negate that, or take a negation out. They know some seven hundred verbs
of English (`english.py`) and very little grammar (`main_verb.py`): where none fits surely, there is no negation.

    one sentence -> has it a negation? -> take it out
                 -> find the main verb -> negate it, or the quantifier of its subject
                 -> or swap one word:     always/never, with/without, an antonym
"""

from __future__ import annotations

import re
from typing import Literal

from jemb.config import options
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.negating.english import choice, table
from jemb.prepare.negating.main_verb import Text
from jemb.prepare.negating.rules import negate_fragment, negate_head, negate_main
from jemb.prepare.negating.swaps import LEXICAL, take_out
from jemb.prepare.registry import StageInputs, Statistic, stage
from jemb.text import count_words, normalise

MAX_WORDS = 40
"""Longer sentences have more clauses than the rules can tell apart."""


@options
class NegationConfig:
    """Triplets from entailment pairs: the positive, minimally negated, becomes the negative of a pair without one."""

    unmatched: Literal["drop", "keep"] = "drop"
    """What to do with a pair that no rule can negate soundly. `keep` is of use where `mine` gives it a negative."""


@stage(
    "negation",
    reasons={"not_negatable": "no rule negates the positive soundly"},
    options=NegationConfig,
    statistics={
        "negated": Statistic("Rows given a negation"),
        "had_negatives": Statistic("Rows that had negatives"),
    },
    after="consistency",
    adds_negatives=True,
    advice="the rules know single English sentences alone; negation.unmatched=keep leaves the other rows",
)
def add_negations(rows: Rows, options: NegationConfig, inputs: StageInputs) -> Verdict:
    """Give each row without negatives its negated positive; rows that have some stay as they are.

    Reason, with `unmatched="drop"`: `not_negatable`, where `negate` finds nothing or nothing new. Statistics: `negated`
    and `had_negatives` rows.
    """
    verdict = Verdict()
    changed: list[tuple[str, ...]] = []
    negated = 0
    for position, (query, positive, negatives) in enumerate(
        zip(rows.query, rows.positive, rows.negatives, strict=True)
    ):
        if not negatives:
            new = negate(positive.strip())
            if new is not None and normalise(new) not in (normalise(positive), normalise(query)):
                negatives = (new,)
                negated += 1
            elif options.unmatched == "drop":
                verdict.dropped[position] = ("not_negatable", "")
        changed.append(negatives)
    if negated:
        verdict.negatives = changed
    verdict.statistics = {"negated": negated, "had_negatives": sum(map(bool, rows.negatives))}
    return verdict


def negate(sentence: str) -> str | None:
    """`sentence` with its meaning turned round by an edit of one to three words; None where no rule fits.

    A negation that is there is removed. Else one is inserted, or, one time in three where both can be done, a word
    swapped: always/never, with/without, an antonym. The choice depends on a hash of the sentence, so kinds vary, and
    every run and machine agrees. Only single sentences of English: no questions, no paragraphs.
    """
    if not _is_one_sentence(sentence):
        return None
    text = Text.of(sentence)
    if negations := [at for at, word in enumerate(text.words) if _NEGATION.fullmatch(word)]:
        # A second one beside it would be hard to read.
        return _changed(take_out(text, negations[0]), sentence) if len(negations) == 1 else None
    polar = _changed(negate_main(text) or negate_head(text) or negate_fragment(text), sentence)
    lexical = [new for rule in LEXICAL if (new := _changed(rule(sentence), sentence))]
    if lexical and (polar is None or choice(sentence, "kind", (False, False, True))):
        return choice(sentence, "rule", lexical)
    return polar


def _changed(new: str | None, sentence: str) -> str | None:
    return new if new and new != sentence else None


def _is_one_sentence(sentence: str) -> bool:
    text = sentence.strip()
    if "?" in text or "\n" in text or not text or count_words(text) > MAX_WORDS:
        return False
    for end in re.finditer(r"([^\W\d_]+)?[.!]['\")\]]* +(?=[A-Z\"'(])", text):
        if not end[1] or (len(end[1]) > 2 and end[1].lower() not in _ABBREVIATIONS):
            return False
    return True


_ABBREVIATIONS = frozenset(table("mrs prof gen col capt sgt rev hon inc ltd corp vol etc sen gov rep fig approx"))
_NEGATION = re.compile(
    r"not|cannot|never|no|none|nobody|nothing|nowhere|neither|nor|without|hardly|barely|scarcely|rarely|seldom"
    r"|non|[a-z]+n['’]t"
)
