"""Drop pairs that say the same with nearly the same words: they teach an encoder to count words (Jina v3's rule).

Not among the default stages. A row goes when nearly all words of its shorter text stand in the longer one.
"""

from __future__ import annotations

from typing import Any

from jemb.config import OverlapConfig
from jemb.prepare.table import Rows, Verdict
from jemb.text import words as words_of

BINS = 20
"""Of the histogram of shares of words found."""


def drop_overlapping(rows: Rows, config: OverlapConfig) -> Verdict:
    """Drop a row when `words_found` gives at least `min_words` and at least `share` of the words. Reason: `overlap`.

    Negatives are not looked at. Statistics: a histogram of the share of words found, of all rows that have words.
    """
    verdict = Verdict()
    counts = [0] * BINS
    # A product like 0.7 * 10 may come out a hair above the number of words it stands for.
    share = config.share - 1e-9
    for position, (query, positive) in enumerate(zip(rows.query, rows.positive, strict=True)):
        found, words = words_found(query, positive)
        if not words:
            continue
        counts[min(found * BINS // words, BINS - 1)] += 1
        if found >= config.min_words and found >= share * words:
            verdict.dropped[position] = ("overlap", f"{found} of {words} words")
    verdict.statistics = {"share": _histogram(counts)}
    return verdict


def words_found(query: str, positive: str) -> tuple[int, int]:
    """(words of the shorter text that are substrings of the longer one, words of the shorter text), case folded.

    A word is a run of letters, digits and underscores, or a letter of a script without spaces (`jemb.text.words`); one
    that occurs twice counts twice. Shorter is the text with fewer characters, of equal ones the query. A substring may
    lie anywhere, also within a longer word: `art` is found in `party`.
    """
    shorter, longer = query.casefold(), positive.casefold()
    if len(longer) < len(shorter):
        shorter, longer = longer, shorter
    words = words_of(shorter)
    return sum([word in longer for word in words]), len(words)


def _histogram(counts: list[int]) -> dict[str, Any]:
    return {"from": 0.0, "to": 1.0, "counts": counts}
