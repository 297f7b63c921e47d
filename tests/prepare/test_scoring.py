"""Counting and ranking in rough blocks against a brute-force ranking in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jemb.prepare.vectors import scoring
from jemb.prepare.vectors.embeddings import StoredVectors
from jemb.prepare.vectors.scoring import (
    ScoringBackend,
    _Scorer,
    choose_backend,
    count_better,
    exact_scores,
    top_candidates,
)

BACKENDS = [ScoringBackend(dtype, threads=threads, compiled=compiled) for dtype in ("bfloat16", "float32")
        for threads, compiled in ((1, True), (2, True), (1, False))]  # fmt: skip


def unit(rng, *shape):
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def products(queries, pool):
    return queries.astype(np.float64) @ pool.astype(np.float64).T


def limits_between(scores, ranks):
    """A limit half-way between the scores of rank r and r + 1 of each query, so r passages are above it."""
    ordered = -np.sort(-scores, axis=1)
    rows = np.arange(len(scores))
    return (ordered[rows, ranks - 1] + ordered[rows, ranks]) / 2


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        for name, size in (("ROWS", 37), ("COLUMNS", 300), ("POOL_BLOCK", 701)):
            monkeypatch.setattr(scoring, name, size)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.usefixtures("blocks")
def test_counts_match_brute_force_where_bfloat16_alone_is_wrong(backend):
    rng = np.random.default_rng(0)
    queries, pool = unit(rng, 90, 48), unit(rng, 2000, 48)
    scores = products(queries, pool)
    ranks = rng.integers(1, 1500, 90)  # also in the dense middle, and below zero
    limits = limits_between(scores, ranks)
    nobody = np.full(90, -1)
    assert (limits < 0).sum() > 10
    assert count_better(queries, limits, nobody, pool, most=5000, backend=backend).tolist() == ranks.tolist()
    assert (
        count_better(queries, limits, nobody, pool, most=7, backend=backend).tolist() == np.minimum(ranks, 7).tolist()
    )
    # The proof that this is hard: the plain count in bfloat16 is off for most queries.
    rough = (torch.from_numpy(queries).bfloat16() @ torch.from_numpy(pool).bfloat16().T).double().numpy()
    assert ((rough > limits[:, None]).sum(1) != ranks).sum() > 45


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.usefixtures("blocks")
def test_the_own_passage_does_not_count_above_or_below_the_limit(backend):
    rng = np.random.default_rng(1)
    queries, pool = unit(rng, 60, 32), unit(rng, 1500, 32)
    scores = products(queries, pool)
    limits = limits_between(scores, np.full(60, 20))
    order = np.argsort(-scores, axis=1)
    own = np.where(np.arange(60) % 3 == 0, order[:, 0], np.where(np.arange(60) % 3 == 1, order[:, 19], order[:, 20]))
    expected = np.where(np.arange(60) % 3 == 2, 20, 19)
    assert count_better(queries, limits, own, pool, most=100, backend=backend).tolist() == expected.tolist()


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.usefixtures("blocks")
def test_the_first_k_match_a_full_sort_with_ties_by_row(backend):
    rng = np.random.default_rng(2)
    queries, pool = unit(rng, 50, 24), unit(rng, 1600, 24)
    pool[1000:1300] = pool[200:500]  # equal vectors: equal scores
    pool[1300:1400] = pool[200:300]
    scores = products(queries, pool).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    found_scores, found = top_candidates(queries, pool, 30, backend=backend)
    assert found.tolist() == order.tolist()
    assert found_scores.dtype == np.float32
    assert found_scores.tolist() == np.take_along_axis(scores, order, 1).tolist()
    assert top_candidates(queries, pool[:4], 30, backend=backend)[1].shape == (50, 4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["random", "worst rounding", "large", "denormal"])
def test_no_rough_score_is_further_off_than_its_bound(dtype, kind):
    rng = np.random.default_rng(3)
    queries, pool = unit(rng, 200, 384), unit(rng, 400, 384)
    if kind == "worst rounding":  # every number half-way between two of bfloat16, all errors of one sign
        queries = np.full((200, 384), 1 + 2**-8 - 2**-20, np.float32) * 2.0 ** rng.integers(-3, 3, (200, 1))
        pool = np.full((400, 384), 1 + 2**-8 - 2**-20, np.float32) * 2.0 ** rng.integers(-3, 3, (400, 1))
        queries, pool = queries.astype(np.float32), pool.astype(np.float32)
    if kind == "large":
        queries, pool = queries * np.float32(3000), pool * np.float32(0.01)
    if kind == "denormal":
        queries = queries * np.float32(1e-30)
    scorer = _Scorer(queries, pool, ScoringBackend(dtype))
    block = scorer._block(0)
    exact = products(queries, pool)
    worst = 0.0
    for start, rough in scorer.tiles(block, np.arange(200)):
        codes = scorer.codes(rough).astype(np.int64)
        keys = np.where(codes < 0, codes ^ ((1 << (scorer.bits - 1)) - 1), codes)
        part = exact[:, start : start + rough.shape[1]]
        # What counting relies on: with the error taken off or added, the key of the exact score is never passed.
        assert (keys >= scorer.sortable_bits(part - block.errors[:, None]) - 1).all()
        assert (keys <= scorer.sortable_bits(part + block.errors[:, None]) + 1).all()
        rounding = np.abs(part) * {"bfloat16": 2.0**-8, "float32": 2.0**-24}[dtype]  # of the score itself
        off = np.abs(rough.double().numpy() - part) - rounding * 1.01
        assert (off <= block.errors[:, None]).all()
        worst = max(worst, (off / block.errors[:, None]).max())
    # The bound is not so wide as to be useless.
    assert worst > {"random": 0.1, "large": 0.1, "worst rounding": 0.45}.get(kind, -1) or dtype == "float32"


def test_exact_scores_against_whole_numbers():
    # Numbers whose products and sums double precision holds exactly, of which float32 would lose the end.
    a = np.array([[2.0**20, 3, 1, 0, 5], [1, 1, 1, 1, 1]], np.float32)
    b = np.array([[2.0**20, 7, 1, 9, 2], [1, -1, 1, -1, 4]], np.float32)
    assert exact_scores(a, b).tolist() == [2.0**40 + 32, 4.0]


def test_long_vectors_never_beat_themselves():
    # Of length 1000, rounding errors of float32 are about 0.1: far above any tolerance.
    rng = np.random.default_rng(4)
    vectors = 1000 * unit(rng, 300, 384)
    limits = exact_scores(vectors, vectors)
    for backend in BACKENDS:
        assert count_better(vectors, limits, np.full(300, -1), vectors, most=5, backend=backend).tolist() == [0] * 300


def test_the_pool_may_lie_in_a_file(tmp_path):
    rng = np.random.default_rng(5)
    queries, pool = unit(rng, 20, 16), unit(rng, 9000, 16)
    np.save(tmp_path / "pool.npy", pool)
    expected = top_candidates(queries, pool, 5)[1].tolist()
    stored = StoredVectors(tmp_path / "pool.npy")
    assert stored[8990:9010].tolist() == pool[8990:].tolist()
    for other in (stored, np.load(tmp_path / "pool.npy", mmap_mode="r")):
        assert top_candidates(queries, other, 5)[1].tolist() == expected


def test_settings_of_torch_are_given_back():
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # would make float32 scores as rough as bfloat16
    try:
        test_counts_match_brute_force_where_bfloat16_alone_is_wrong(ScoringBackend("float32"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert torch.get_num_threads() == before[0]


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"one length, got queries \(2, 3\) and pool \(5, 4\)"):
        top_candidates(np.ones((2, 3), np.float32), np.ones((5, 4), np.float32), 1)


@pytest.mark.parametrize(
    ("amx", "avx512", "dtype"), [(True, True, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")]
)
def test_bfloat16_wherever_the_processor_multiplies_it(amx, avx512, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert choose_backend().dtype == dtype
