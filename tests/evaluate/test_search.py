"""Blocked search against a full sort, ties and block borders included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.evaluate import ranking
from jemb.evaluate.bm25 import best
from jemb.evaluate.ranking import top_k
from jemb.prepare.vectors import scoring


def full_sort(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@settings(max_examples=150)
@given(
    queries=st.integers(0, 9),
    corpus=st.integers(1, 40),
    k=st.integers(1, 45),
    seed=st.integers(0, 2**20),
)
def test_equals_a_full_sort(queries: int, corpus: int, k: int, seed: int) -> None:
    # Vectors of small whole numbers: many exact ties, zeros of both signs, and no rounding in any order of sums.
    rng = np.random.default_rng(seed)
    q, c = (rng.integers(-1, 2, size=(n, 3)).astype(np.float32) for n in (queries, corpus))
    scores, columns = top_k(q, c, k)
    wanted_scores, wanted_columns = full_sort(q @ c.T, k)
    np.testing.assert_array_equal(scores, wanted_scores)
    np.testing.assert_array_equal(columns, wanted_columns)


def test_real_vectors_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    q, c = (rng.normal(size=(n, 32)).astype(np.float32) for n in (70, 3000))
    monkeypatch.setattr(ranking, "QUERIES", 16)
    monkeypatch.setattr(scoring, "POOL_BLOCK", 512)
    scores, columns = top_k(q, c, 100)
    exact = q.astype(np.float64) @ c.T.astype(np.float64)
    wanted_scores, wanted_columns = full_sort(exact, 100)
    np.testing.assert_array_equal(columns, wanted_columns)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5)


def test_a_collapsed_model_is_all_ties() -> None:
    scores, columns = top_k(np.ones((3, 2), np.float32), np.ones((50, 2), np.float32), 7)
    assert columns.tolist() == [list(range(7))] * 3
    assert (scores == 2).all()


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_best_keeps_low_columns_at_the_border(k: int) -> None:
    scores, columns = best(np.array([1, 3, 1, 2.0]), np.array([4, 9, 2, 7]), k)
    assert columns.tolist() == [9, 7, 2, 4][:k]
    assert scores.tolist() == [3, 2, 1, 1][:k]
