"""Drop pairs that say the same with nearly the same words: they teach an encoder to count words (Jina v3's rule).

Not among the default stages. A row goes when nearly all words of its shorter text stand in the longer one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jemb.config import Positive, options
from jemb.core.text import words as words_of
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.registry import StageInputs, Statistic, stage

BINS = 20
"""Of the histogram of shares of words found."""


@options
class OverlapConfig:
    """Overlap filter of Jina v3 (arXiv 2409.10173): pairs whose words are the same teach little."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Drop a pair when at least this share of the words of its shorter text are substrings of the longer; (0, 1]."""
    min_words: Positive = 4
    """And at least so many words are. A letter of a script without spaces (Chinese, Japanese, Thai, …) is a word."""


@stage(
    "overlap",
    reasons={"overlap": "query and positive have nearly the same words"},
    options=OverlapConfig,
    of_answers=True,
    statistics={
        "share": Statistic("Words of the shorter text found in the longer", axis="share of its words", setting="share")
    },
    after="language",
    columns=("query", "positive"),
    advice="queries are cut out of their positives, as titles or first sentences are",
)
def drop_overlapping(rows: Rows, options: OverlapConfig, inputs: StageInputs) -> Verdict:
    """Drop a row when `words_found` gives at least `min_words` and at least `share` of the words. Reason: `overlap`.

    Negatives are not looked at. Statistics: a histogram of the share of words found, of all rows that have words.
    """
    verdict = Verdict()
    counts = [0] * BINS
    # A product like 0.7 * 10 may come out a hair above the number of words it stands for.
    share = options.share - 1e-9
    for position, (query, positive) in enumerate(zip(rows.query, rows.positive, strict=True)):
        found, words = words_found(query, positive)
        if not words:
            continue
        counts[min(found * BINS // words, BINS - 1)] += 1
        if found >= options.min_words and found >= share * words:
            verdict.dropped[position] = ("overlap", f"{found} of {words} words")
    verdict.statistics = {"share": {"from": 0.0, "to": 1.0, "counts": counts}}
    return verdict


def words_found(query: str, positive: str) -> tuple[int, int]:
    """(words of the shorter text that are substrings of the longer one, words of the shorter text), case folded.

    A word is a run of letters, digits and underscores, or a letter of a script without spaces (`core/text.py`); one
    that occurs twice counts twice. Shorter is the text with fewer characters, of equal ones the query. A substring may
    lie anywhere, also within a longer word: `art` is found in `party`.
    """
    shorter, longer = query.casefold(), positive.casefold()
    if len(longer) < len(shorter):
        shorter, longer = longer, shorter
    words = words_of(shorter)
    return sum([word in longer for word in words]), len(words)
