"""Exact duplicates and rows without content, against rows worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jemb.core.records import Sample
from jemb.core.text import normalise
from jemb.prepare import equal
from jemb.prepare.engine.verdicts import write_dropped, write_verdict
from jemb.prepare.stages.exact import ExactConfig, duplicates, judge
from jemb.shards import write_dataset
from tests.helpers.prepare_tools import inputs


def found(dropped):
    return {int(row): (part.reason, int(of)) for part in dropped for row, of in zip(part.ids, part.values, strict=True)}


def test_normalise_folds_white_space_and_case():
    assert normalise("  A\tb\n\u00a0C  ") == "a b c"
    assert normalise("STRASSE") == normalise("Straße")
    assert normalise("a-b") != normalise("a b")


def test_rows_without_content(rows):
    verdict = judge(
        rows(("a", "b"), ("", "nothing asked"), ("nothing said", " \n"), ("Same", "same ")), ExactConfig(), inputs()
    )
    assert verdict.dropped == {1: ("empty", ""), 2: ("empty", ""), 3: ("identical", "")}
    assert verdict.negatives is None


def test_triplets_lose_useless_negatives_and_keep_their_others(rows):
    verdict = judge(rows(("q", "p", "n", "Q ", "P", " ", "N", "m"), ("q", "p", "Q")), ExactConfig(), inputs())
    assert verdict.negatives == [("n", "m"), ()]
    assert verdict.dropped == {1: ("no_negative", "")}


PAIRS = [
    ("what is a cat", "an animal"),
    ("What  is a\tCAT", "An animal\n"),  # 0 after folding
    ("what is a cat", "a pet"),  # same query, other positive
    ("an animal", "what is a cat"),  # the reverse is another pair
    ("what is", "a cat an animal"),  # same words, cut elsewhere
    ("WHAT IS A CAT", "a pet"),
    ("what is a cat", "an animal"),
]


@pytest.mark.parametrize("piece_rows", [1, 3, 100])
@pytest.mark.parametrize("range_rows", [1, 1000])
def test_the_lowest_id_stays(table, job, monkeypatch, piece_rows, range_rows):
    monkeypatch.setattr(equal, "RANGE_ROWS", range_rows)
    dropped = duplicates(table(PAIRS, piece_rows), job(), ExactConfig(), inputs())
    assert found(dropped) == {1: ("duplicate", 0), 5: ("duplicate", 2), 6: ("duplicate", 0)}


def test_equal_pairs_with_other_negatives_stay(table, job):
    texts = [("q", "p", "n", "m"), ("q", "p", "m", "N"), ("q", "p", "other"), ("q", "p")]
    assert found(duplicates(table(texts), job(), ExactConfig(), inputs())) == {1: ("duplicate", 0)}


def test_dropped_rows_are_not_compared(table, job, rows, tmp_path):
    """Row 0 went before: its equal is no duplicate of it."""
    whole = table([("a", "b"), ("A", "b"), ("a", "B")], 2)
    verdict = judge(rows(("", ""), ("a", "b")), ExactConfig(), inputs())
    (tmp_path / "before").mkdir()
    write_verdict(tmp_path / "before", 0, rows(("", ""), ("a", "b")), verdict)
    left = whole.judged(tmp_path / "before")
    assert left.counts() == [1, 1]
    first = duplicates(left, job(), ExactConfig(), inputs())
    assert found(first) == {2: ("duplicate", 1)}
    (tmp_path / "exact").mkdir()
    assert write_dropped(tmp_path / "exact", left, first) == {"dropped": {"duplicate": 1}, "statistics": {}}
    assert [left.judged(tmp_path / "exact").ids(piece).tolist() for piece in (0, 1)] == [[1], []]


def test_random_rows_against_a_dictionary(table, job):
    chosen = random.Random(0)
    texts = [(f"q{chosen.randrange(20)}", f"P{chosen.randrange(20)}") for _ in range(900)]
    first: dict[tuple[str, ...], int] = {}
    expected = {row: ("duplicate", first[text]) for row, text in enumerate(texts) if first.setdefault(text, row) != row}
    assert 400 < len(expected) < 800
    assert found(duplicates(table(texts, 70), job(), ExactConfig(), inputs())) == expected


def test_rows_of_other_data_sets(table, job, tmp_path):
    samples = [Sample(f"{number}", text, "p") for number, text in enumerate("abc")]
    write_dataset(tmp_path / "other", "other", samples, 2)
    here, elsewhere = duplicates(
        table([("x", "p"), ("B", "P"), ("c", "p"), ("x", "p"), ("c", "p")]),
        job(),
        ExactConfig(),
        inputs(others=[tmp_path / "other"]),
    )
    assert found([here]) == {3: ("duplicate", 0)}
    assert found([elsewhere]) == dict.fromkeys((1, 2, 4), ("duplicate_elsewhere", -1))
    assert np.all(np.diff(elsewhere.ids) > 0)
