"""Exact duplicates and rows without content, against rows worked out by hand."""

from __future__ import annotations

import random

from jemb.prepare.exact import keep_unique, normalise


def seen(outcome):
    return [row.key[-1] for row in outcome.kept], {
        drop.sample.key[-1]: (drop.reason, drop.note) for drop in outcome.dropped
    }


def test_normalise_folds_white_space_and_case():
    assert normalise("  A\tb\n\u00a0C  ") == "a b c"
    assert normalise("STRASSE") == normalise("Straße")
    assert normalise("a-b") != normalise("a b")


def test_reasons_by_hand(rows):
    outcome = keep_unique(
        rows(
            ("what is a cat", "an animal"),
            ("What  is a\tCAT", "An animal\n"),  # 0 after folding
            ("what is a cat", "a pet"),  # same query, other positive
            ("an animal", "what is a cat"),  # the reverse is another pair
            ("", "nothing asked"),
            ("nothing said", " \n"),
            ("Same", "same "),
            ("what is", "a cat an animal"),  # same words, cut elsewhere
        )
    )
    assert seen(outcome) == (
        ["0", "2", "3", "7"],
        {
            "1": ("duplicate", "of 000000000"),
            "4": ("empty", ""),
            "5": ("empty", ""),
            "6": ("identical", ""),
        },
    )
    assert outcome.reasons() == {"empty": 2, "duplicate": 1, "identical": 1}


def test_triplets_lose_useless_negatives_and_keep_their_others(rows):
    outcome = keep_unique(
        rows(
            ("q", "p", "n", "Q ", "P", " ", "N", "m"),
            ("q", "p", "Q"),  # nothing left
            ("q", "p", "m", "n"),  # the negatives of row 0 in another order
            ("q", "p", "other"),  # the same pair with another negative stays
        )
    )
    assert seen(outcome) == (["0", "3"], {"1": ("no_negative", ""), "2": ("duplicate", "of 000000000")})
    assert outcome.kept[0].negatives == ("n", "m")


def test_order_of_rows_does_not_matter(rows):
    chosen = random.Random(0)
    plain = rows(*((f"q{chosen.randrange(5)}", f"P{chosen.randrange(5)}") for _ in range(200)))
    expected = keep_unique(plain)
    assert 0 < len(expected.kept) <= 25
    for _ in range(3):
        chosen.shuffle(plain)
        assert keep_unique(plain) == expected
