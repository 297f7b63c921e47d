"""Vectors of texts, each distinct text encoded once, and cosines of pairs of them.

Before: `jemb.model.encode` or any function of its kind. After: the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jemb.errors import Failure

Encode = Callable[[Sequence[str]], np.ndarray]
"""N texts -> float [N, D] in the order of the texts. Rows need not have unit length."""


def encode_distinct(encode: Encode, *groups: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(float32 [U, D], a unit row for each distinct text; for each group int64 [N], the rows of its texts).

    Equal texts thus have equal vectors, whatever else was in their batches. A zero vector stays zero.
    `Failure` when the vectors are not finite.
    """
    rows: dict[str, int] = {}
    indexes = [np.array([rows.setdefault(text, len(rows)) for text in group], np.int64) for group in groups]
    texts = list(rows)
    vectors = np.asarray(encode(texts), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"encode gave shape {vectors.shape} for {len(texts)} texts; wanted [{len(texts)}, D]")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = texts[int(np.argmin(finite))]
        raise Failure(
            f"the model gave NaN or infinite vectors for {int((~finite).sum())} of {len(texts)} texts, "
            f"the first {first[:80]!r}: its weights are damaged, or its training diverged"
        )
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1), indexes


def pair_cosines(vectors_UD: np.ndarray, left_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """float64 [N]: cosines of rows `left` and `right`; symmetric, and equal for equal pairs, bit for bit."""
    cosines = np.empty(len(left_N), np.float64)
    for start in range(0, len(left_N), 8192):
        part = slice(start, start + 8192)
        products = vectors_UD[left_N[part]].astype(np.float64) * vectors_UD[right_N[part]]
        cosines[part] = products.sum(axis=1)
    return cosines
