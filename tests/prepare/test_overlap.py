"""The overlap filter against hand-counted words and a slow reference."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.stages.overlap import OverlapConfig, drop_overlapping, words_found
from tests.helpers.prepare_tools import inputs


def judge(*pairs: tuple[str, str], **options: float) -> Verdict:
    rows = Rows(np.arange(len(pairs)), [query for query, _ in pairs], [positive for _, positive in pairs])
    return drop_overlapping(rows, OverlapConfig(**options), inputs())


@pytest.mark.parametrize(
    ("query", "positive", "found"),
    [
        ("a red car", "the red car stops", (3, 3)),  # `a` stands in `car`
        ("The red car stops", "a RED bike", (2, 3)),  # the shorter text may be the positive; `a` stands in `car`
        ("state-of-the-art", "the state of my party", (4, 4)),  # `art` stands in `party`, `of` in `of`
        ("snow snow snow", "it is snowing today", (3, 3)),  # each occurrence counts
        ("straße", "STRASSE 5", (1, 1)),
        ("foo_bar baz", "call foo_bar(1) now", (1, 2)),
        ("... !", "a b c d e f", (0, 0)),
        ("", "", (0, 0)),
    ],
)
def test_words_found(query: str, positive: str, found: tuple[int, int]) -> None:
    assert words_found(query, positive) == found


def test_of_texts_of_equal_length_the_query_counts() -> None:
    assert words_found("ab cd", "ab xy") == (1, 2)
    assert words_found("abcde", "abc d") == (0, 1)
    assert words_found("abc d", "abcde") == (2, 2)


def test_share_and_least_number_of_words() -> None:
    long = "one two three four five six seven eight nine ten eleven"
    verdict = judge(
        ("one two three", long),  # all, but fewer than four
        ("one two three four", long),
        ("one two three four xx", long),  # four of five: 80 %
        ("one two three four xx yy", long),  # four of six
        ("one two three four five six seven eight xx yy", long),  # eight of ten
        ("one two three four five six seven xx yy zz", long),  # seven of ten
    )
    assert verdict.dropped == {
        1: ("overlap", "4 of 4 words"),
        2: ("overlap", "4 of 5 words"),
        4: ("overlap", "8 of 10 words"),
    }
    assert sum(verdict.statistics["share"]["counts"]) == 6
    assert verdict.statistics["share"]["counts"][-1] == 2
    assert verdict.negatives is None


def test_options() -> None:
    pair = ("one two xx", "one two three four")
    assert judge(pair, share=0.6, min_words=2).dropped
    assert not judge(pair, share=0.7, min_words=2).dropped
    assert not judge(pair, share=0.6, min_words=3).dropped
    # 7 of 10, though 0.7 * 10 is a little more than 7 in binary fractions.
    ten = ("a1 a2 a3 a4 a5 a6 a7 b1 b2 b3", "a1 a2 a3 a4 a5 a6 a7 c1 c2 c3 c4")
    assert judge(ten, share=0.7).dropped


def test_against_slow_reference() -> None:
    draw = random.Random(0)
    syllables = ["ba", "ki", "Mo", "lur", "te", "ß", "'", "-", "1"]
    texts = [
        " ".join("".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(draw.randint(0, 9)))
        for _ in range(2000)
    ]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    verdict = judge(*pairs, share=0.5, min_words=2)
    for position, (query, positive) in enumerate(pairs):
        shorter, longer = sorted([query.casefold(), positive.casefold()], key=len)
        words = "".join(char if char.isalnum() or char == "_" else " " for char in shorter).split()
        found = sum(any(longer[at:].startswith(word) for at in range(len(longer))) for word in words)
        assert (position in verdict.dropped) == (bool(words) and found >= 2 and found / len(words) >= 0.5), pairs[
            position
        ]
    assert 50 < len(verdict.dropped) < 950
