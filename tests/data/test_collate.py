"""Samples to a batch: layout, hashes, and which negatives are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import nan

import pytest
import torch

from jemb.core.records import Sample, Tokens
from jemb.core.text import content_hash
from jemb.data import Collate
from jemb.data.wanted import Wanted


def letters(texts: Sequence[str]) -> Tokens:
    """One token a character, padded with 0 to the longest."""
    longest = max(1, max(map(len, texts)))
    ids = torch.tensor([[ord(c) for c in text] + [0] * (longest - len(text)) for text in texts])
    return Tokens(ids, (ids > 0).sum(1).numpy())


def text_of(tokens: Tokens, row: int) -> str:
    return "".join(chr(i) for i in tokens.input_ids[row] if i)


SAMPLES = [
    Sample(f"k{i}", f"query {i}", f"passage {i}" + "!" * i, tuple(f"n{i}{c}" for c in "abcde")) for i in range(6)
]


def test_pairs_stand_in_order() -> None:
    batch = Collate(letters, 0, seed=0)(7, "set", SAMPLES, ["x", "y"])
    assert (batch.step, batch.dataset, batch.keys) == (7, "set", ("x", "y"))
    assert [text_of(batch.query, row) for row in range(6)] == [sample.query for sample in SAMPLES]
    assert [text_of(batch.positive, row) for row in range(6)] == [sample.positive for sample in SAMPLES]
    assert batch.negatives is None
    assert batch.negative_hash is None
    assert batch.query_hash.dtype == torch.int64
    assert batch.query_hash.tolist() == [content_hash(sample.query) for sample in SAMPLES]
    assert batch.positive_hash.tolist() == [content_hash(sample.positive) for sample in SAMPLES]


def test_prompts_stand_before_the_texts_and_not_in_their_hashes() -> None:
    plain = Collate(letters, 1, seed=0)(7, "set", SAMPLES, [])
    batch = Collate(letters, 1, seed=0, query_prompt="q: ", passage_prompt="p: ")(7, "set", SAMPLES, [])
    assert batch.negatives is not None
    assert plain.negatives is not None
    for row, sample in enumerate(SAMPLES):
        assert text_of(batch.query, row) == f"q: {sample.query}"
        assert text_of(batch.positive, row) == f"p: {sample.positive}"
        assert text_of(batch.negatives, row) == "p: " + text_of(plain.negatives, row)
    for name in ("query_hash", "positive_hash", "negative_hash"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))


def test_a_data_set_has_prompts_of_its_own() -> None:
    collate = Collate(letters, 1, 0, query_prompt="q: ", dataset_prompts={"faq": ("ask: ", "say: ")})
    own, other = collate(7, "faq", SAMPLES, []), collate(7, "set", SAMPLES, [])
    assert own.negatives is not None
    for row, sample in enumerate(SAMPLES):
        assert (text_of(own.query, row), text_of(other.query, row)) == (f"ask: {sample.query}", f"q: {sample.query}")
        assert (text_of(own.positive, row), text_of(own.negatives, row)[:5]) == (f"say: {sample.positive}", "say: ")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_negatives_stand_row_by_row(count: int) -> None:
    batch = Collate(letters, count, seed=0)(7, "set", SAMPLES, [])
    assert batch.negatives is not None
    assert batch.negative_hash is not None
    taken = [text_of(batch.negatives, row) for row in range(6 * count)]
    for i, sample in enumerate(SAMPLES):
        mine = taken[i * count : (i + 1) * count]
        assert len(set(mine)) == count
        assert set(mine) <= set(sample.negatives)
    assert batch.negative_hash.tolist() == [content_hash(text) for text in taken]


def negatives(samples: Sequence[Sample], step: int, seed: int = 0, count: int = 2) -> list[str]:
    batch = Collate(letters, count, seed=seed)(step, "set", samples, [])
    assert batch.negatives is not None
    return [text_of(batch.negatives, row) for row in range(len(samples) * count)]


def test_the_choice_depends_on_seed_step_and_key_alone() -> None:
    together = negatives(SAMPLES, 3)
    assert together == negatives(SAMPLES, 3)
    for i in range(6):
        assert negatives([SAMPLES[i]], 3) == together[2 * i : 2 * i + 2], "alone as in company, on whatever rank"
    assert together != negatives(SAMPLES, 4)
    assert together != negatives(SAMPLES, 3, seed=1)


def test_a_score_counts_once_however_often_its_text_stands_there() -> None:
    sample = Sample("k", "query", "passage", ("wrong",), scores=(3.0, 1.0))
    wanted = {"set": Wanted(num_negatives=3, fields=("scores",))}
    batch = Collate(letters, 0, seed=0, wanted=wanted)(7, "set", [sample], [])
    assert batch.negatives is not None
    assert batch.scores is not None
    assert [text_of(batch.negatives, row) for row in range(3)] == ["wrong"] * 3
    torch.testing.assert_close(batch.scores, torch.tensor([[3.0, 1.0, nan, nan]], dtype=torch.float64), equal_nan=True)


def test_every_negative_gets_its_turn() -> None:
    """500 steps, one of five: each about 100 times, and the rows do not move together."""
    chosen = [negatives(SAMPLES[:2], step, count=1) for step in range(500)]
    for row in range(2):
        counts = Counter(pick[row][-1] for pick in chosen)
        assert set(counts) == set("abcde")
        assert all(60 < count < 145 for count in counts.values())  # 100 +- 5 sigma
    assert 50 < sum(one[-1] == other[-1] for one, other in chosen) < 150


def test_too_few_negatives() -> None:
    """They are taken again, each as often as the others or once more; where there are none, the positive is, which the
    loss does not count as a negative."""
    few = [Sample("two", "q", "p", ("a", "b")), Sample("none", "q", "p"), Sample("seven", "q", "p", tuple("cdefghi"))]
    batch = Collate(letters, 5, seed=0)(0, "set", few, [])
    assert batch.negatives is not None
    assert batch.negatives_short == 2
    taken = [text_of(batch.negatives, row) for row in range(15)]
    assert sorted(Counter(taken[:5]).values()) == [2, 3]
    assert set(taken[:5]) == {"a", "b"}
    assert taken[5:10] == ["p"] * 5
    assert len(set(taken[10:])) == 5
    assert Collate(letters, 5, seed=0)(0, "set", SAMPLES, []).negatives_short == 0


GOLDEN_HASH = -147656684861043812


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("The  cat\tsat ", "the cat sat", True),
        ("STRASSE", "straße", True),
        ("a\u00a0b\u2003c\n", "A B C", True),
        ("", " \n", True),
        ("the cat", "thecat", False),
        ("the cat", "the cat.", False),
        ("résumé", "resume", False),
    ],
)
def test_equal_texts_have_equal_hashes(one: str, other: str, equal: bool) -> None:
    assert (content_hash(one) == content_hash(other)) is equal


def test_hashes_are_64_bits_and_the_same_in_every_process() -> None:
    hashes = [content_hash(f"text {number}") for number in range(20_000)]
    assert len(set(hashes)) == len(hashes)
    assert min(hashes) < -(2**62)
    assert max(hashes) > 2**62
    assert hashes[7] == GOLDEN_HASH
