"""Vectors of texts, each distinct text encoded once, and cosines of pairs of them.

Before: `jemb.model.encode` or any function of its kind. After: the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from jemb.config.types import Quantization
from jemb.core.errors import Failure

Encode = Callable[[Sequence[str]], np.ndarray]
"""N texts -> float [N, D] in the order of the texts. Rows need not have unit length. Where the function has an
attribute `prompts` (`Prompts`), the tasks put those before the texts; a plain function has none."""

Role = Literal["query", "document"]
BLOCK = 8192
"""Pairs whose products are in memory at once."""


class Prompts:
    """The texts that a model wants before its inputs, by name, and which of them an input gets.

    The choice is that of mteb and sentence-transformers together: the task's own name, its kind, each with the role
    first; then the role; an input without a role gets the default one.
    """

    def __init__(self, texts: Mapping[str, str] | None = None, default: str | None = None) -> None:
        self.texts = dict(texts or {})
        self.default = default

    def choose(self, role: Role | None, *names: str) -> str:
        """The text to put before an input of the tasks called `names`, the closest first; "" where there is none."""
        keys = [key for name in names for key in ([f"{name}-{role}", name] if role else [name])]
        return next((self.texts[key] for key in [*keys, role or self.default or ""] if self.texts.get(key)), "")


class Remember:
    """An encode function that asks `encode` for no text twice, and gives the first `width` numbers of each vector.

    So a task is measured at several widths for the cost of one. Vectors come out with unit length. quantization: what
    `encode_distinct` makes of them; None: they stay float32.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.prompts = getattr(encode, "prompts", None)
        self.width: int | None = None
        self.quantization: Quantization | None = None
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, np.asarray(self.encode(new), np.float32), strict=True))
        return unit_rows(np.stack([self._known[text][: self.width] for text in texts]))


def unit_rows(vectors_ND: np.ndarray) -> np.ndarray:
    """The rows with length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(length > 0, length, 1)


def encode_distinct(
    encode: Encode, kind: str, *groups: tuple[Sequence[str], Role | None]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(float32 [U, D], a row for each distinct text; for each group int64 [N], the rows of its texts).

    kind: mteb's word for the kind of the task, as `STS`, which with the role of a group chooses the prompt before its
    texts. Equal texts have equal vectors, whatever else was in their batches. A zero vector stays zero. Rows have unit
    length; where the function has an attribute `quantization`, they are what `quantize` makes of that, calibrated on
    the documents, or on all texts where there are none. `Failure` when the vectors are not finite.
    """
    prompts: Prompts = getattr(encode, "prompts", None) or Prompts()
    rows: dict[str, int] = {}
    indexes = []
    for texts, role in groups:
        prompt = prompts.choose(role, kind)
        if role == "document" and not prompt:  # by these names sentence-transformers finds it, and mteb does not
            prompt = prompts.texts.get("passage") or prompts.texts.get("corpus") or ""
        indexes.append(np.array([rows.setdefault(prompt + text, len(rows)) for text in texts], np.int64))
    distinct = list(rows)
    vectors = np.asarray(encode(distinct), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(distinct):
        raise ValueError(f"encode gave shape {vectors.shape} for {len(distinct)} texts; wanted [{len(distinct)}, D]")
    check_finite(vectors, distinct)
    vectors = unit_rows(vectors)
    if kind_of_code := getattr(encode, "quantization", None):
        documents = [rows_N for rows_N, (_, role) in zip(indexes, groups, strict=True) if role == "document"]
        vectors = quantize(vectors, kind_of_code, vectors[np.concatenate(documents or indexes)])
    return vectors, indexes


def quantize(vectors_ND: np.ndarray, quantization: Quantization, calibration_MD: np.ndarray) -> np.ndarray:
    """The codes that sentence-transformers' `quantize_embeddings` gives, as float32 [N, D] whose inner products order
    pairs as the codes are compared.

    int8: 256 steps between the least and the greatest of each number over the calibration vectors, what lies beyond cut
    off; the codes are given length 1, so that inner products are their cosines, as in that library's evaluators.
    binary: 1 where a number is above 0, else -1; inner products are D - 2 x the Hamming distance, exactly.
    """
    from sentence_transformers import quantize_embeddings  # seconds to import

    if quantization == "int8":
        ranges_2D = np.stack([calibration_MD.min(0), calibration_MD.max(0)])
        return unit_rows(np.asarray(quantize_embeddings(vectors_ND, "int8", ranges=ranges_2D), np.float32))
    bits = np.unpackbits(np.asarray(quantize_embeddings(vectors_ND, "ubinary")), axis=1, count=vectors_ND.shape[1])
    return 2 * bits.astype(np.float32) - 1


def check_finite(vectors_ND: np.ndarray, texts: Sequence[str]) -> None:
    """`Failure` that names the first text whose vector is not finite."""
    finite = np.isfinite(vectors_ND).all(axis=1)
    if not finite.all():
        first = texts[int(np.argmin(finite))]
        raise Failure(
            f"the model gave NaN or infinite vectors for {int((~finite).sum())} of {len(texts)} texts, "
            f"the first {first[:80]!r}: its weights are damaged, or its training diverged"
        )


def pair_cosines(vectors_UD: np.ndarray, left_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """float64 [N]: cosines of rows `left` and `right`; symmetric, and equal for equal pairs, bit for bit."""
    cosines = np.empty(len(left_N), np.float64)
    for start in range(0, len(left_N), BLOCK):
        part = slice(start, start + BLOCK)
        products = vectors_UD[left_N[part]].astype(np.float64) * vectors_UD[right_N[part]]
        cosines[part] = products.sum(axis=1)
    return cosines
