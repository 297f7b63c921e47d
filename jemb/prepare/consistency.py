"""Last stage: keep a pair only if an auxiliary encoder finds its positive again (arXiv 2307.11224, section 2).

Before: `language.py`. After: `run.py` writes what is left. The positive must be among the `top_k` passages by cosine
for the query, among a pool of the data set's passages plus itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from jemb.errors import Failure
from jemb.prepare.order import shuffled
from jemb.prepare.stage import Drop, Outcome, by_key
from jemb.records import Sample

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]
"""N texts to unit vectors [N, D], float32."""

TOLERANCE = 1e-6
"""A passage counts as better only if its cosine exceeds the positive's by more: two sums of the same products in
another order differ by about 1e-7."""
QUERY_BLOCK = 1024
POOL_BLOCK = 8192
"""Rows and columns of the scores held at once: 32 MiB."""


def keep_consistent(rows: Sequence[Sample], encode: Encode, top_k: int, pool_size: int, seed: int) -> Outcome:
    """Keep a row if fewer than `top_k` passages of the pool score above its own positive. Reason: `consistency`.

    The pool is the positives of `pool_size` rows drawn by `seed`, each text once; a passage equal to the row's own
    positive does not count, nor does one of equal score. Each text is encoded once. Memory: 4 * D bytes for each
    different text. Raises `Failure` when `encode` gives another shape or numbers that are not finite.
    """
    rows = sorted(rows, key=by_key)
    if not rows:
        return Outcome()
    texts = list(dict.fromkeys(text for row in rows for text in (row.query, row.positive)))
    vectors = _encode(encode, texts)
    index = {text: number for number, text in enumerate(texts)}
    drawn = shuffled(rows, seed, "consistency pool")[:pool_size]
    pool = np.array(sorted({index[row.positive] for row in drawn}))
    query = np.array([index[row.query] for row in rows])
    positive = np.array([index[row.positive] for row in rows])
    better = count_better(vectors, query, positive, pool)
    outcome = Outcome()
    for row, count in zip(rows, better.tolist(), strict=True):
        if count < top_k:
            outcome.kept.append(row)
        else:
            outcome.dropped.append(Drop(row, "consistency", f"rank {count + 1}"))
    return outcome


def count_better(
    vectors: Vectors, query: npt.NDArray[np.intp], positive: npt.NDArray[np.intp], pool: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """How many pool passages score more than `TOLERANCE` above the own positive, for each of N rows: [N].

    vectors: [U, D] unit rows of all texts. query, positive: [N] rows of `vectors`; pool: [P] different rows of it. The
    own positive never counts, in the pool or not. Blocks of scores are counted and forgotten, never sorted.
    """
    better = np.zeros(len(query), dtype=np.intp)
    for start in range(0, len(query), QUERY_BLOCK):
        own = positive[start : start + QUERY_BLOCK]
        queries_BD = vectors[query[start : start + QUERY_BLOCK]]
        limit_B = np.einsum("bd,bd->b", queries_BD, vectors[own]) + np.float32(TOLERANCE)
        for column in range(0, len(pool), POOL_BLOCK):
            members = pool[column : column + POOL_BLOCK]
            above_BP = queries_BD @ vectors[members].T > limit_B[:, None]
            # By rounding alone even the own passage may lie above; it is taken out by its number.
            own_BP = members == own[:, None]
            better[start : start + QUERY_BLOCK] += np.count_nonzero(above_BP & ~own_BP, axis=1)
    return better


def _encode(encode: Encode, texts: Sequence[str]) -> Vectors:
    vectors = np.asarray(encode(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise Failure(f"the auxiliary encoder gave {vectors.shape} for {len(texts)} texts; wanted a row for each")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise Failure(f"the auxiliary encoder gave numbers that are not finite for {texts[bad][:80]!r}")
    return vectors
