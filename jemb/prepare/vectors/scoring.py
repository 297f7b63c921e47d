"""Scores of queries against a pool of passages by blocks of a matrix product; the whole score matrix never exists.

Before: `embeddings.py` has the vectors. After: `consistency.py` counts the better passages, `mine.py` takes the k best.

A block is scored roughly (in bfloat16 where the machine multiplies it fast, else in float32), with a bound on the
error. Only a score too near to the line that decides is computed again, in double precision. So a result is that of
the vectors alone: no block size, number of threads, library or kind of processor shows in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from jemb.prepare.near.kernel import read_only
from jemb.prepare.vectors.kernel import count_above, count_near, dots, take_best, take_near

if TYPE_CHECKING:
    from torch import Tensor

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Exact = npt.NDArray[np.float64]

ROWS, COLUMNS = 1024, 1024
"""Of the rough scores a core holds at once: 2 or 4 MiB, so that they stay in its cache. A GPU takes whole blocks."""
POOL_BLOCK = 8192
"""Passages read and made rough at once."""


class Pool(Protocol):
    """P vectors of D numbers: an array, a memory map, or what reads slices from a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class ScoringBackend:
    """How rough scores are computed and looked through. The result is the same for all.

    dtype: `bfloat16` or `float32`. device: `cpu` or `cuda`. threads: on the CPU. compiled: by the loops of
    `vectors/kernel.py`, else by torch, as a GPU must.
    """

    dtype: str
    device: str = "cpu"
    threads: int = 1
    compiled: bool = True


def choose_backend(threads: int = 1) -> ScoringBackend:
    """The fastest way here. A CPU does bfloat16 about nine times as fast as float32 with AMX, twice with AVX-512 BF16;
    without either it is slower."""
    import torch

    if torch.cuda.is_available():
        return ScoringBackend("bfloat16", "cuda", compiled=False)
    cpu = torch.cpu
    # Private in every version of torch; the public `get_capabilities` came with 2.13.
    has = [getattr(cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return ScoringBackend("bfloat16" if any(has) else "float32", threads=threads)


def exact_scores(a: Vectors, b: Vectors) -> Exact:
    """Inner product of each row of a with that of b, [N, D] each: float64 [N], the same bits everywhere."""
    result = np.empty(len(a), np.float64)
    dots(_plain(a), _plain(b), result)
    return result


def count_better(
    queries: Vectors, limits: Exact, own: Numbers, pool: Pool, *, most: int, backend: ScoringBackend | None = None
) -> Numbers:
    """How many passages score above its limit, for each of B queries: int64 [B]; `most` stands for any more.

    queries: [B, D]. limits: [B]. own: [B], the row of the pool that does not count, or -1. pool: [P, D], read once from
    the first row on; a query with `most` passages above it is not looked at further. backend: None is what
    `choose_backend` gives. Memory beside the arguments: about 50 MB and half the queries again. Raises ValueError for
    vectors of different lengths.
    """
    counts = np.zeros(len(queries), np.int64)
    queries = _plain(queries)
    scorer = _Scorer(queries, pool, backend or choose_backend())

    def scan(block: _Block, rows: Numbers) -> None:
        low, high = scorer.sortable_bits(limits - block.errors) - 1, scorer.sortable_bits(limits + block.errors) + 1
        for start, scores in scorer.tiles(block, rows):
            passages, inside = block.passages[start:], own - block.first - start
            if scorer.backend.compiled:
                codes = scorer.codes(scores)
                count_above(codes, rows, queries, passages, inside, limits, low, high, counts, most)
            else:
                places = np.flatnonzero((inside[rows] >= 0) & (inside[rows] < scores.shape[1]))
                scores[places, inside[rows[places]]] = -np.inf
                above = scores > scorer.threshold_column(high[rows])
                counts[rows] += above.sum(1).cpu().numpy()
                near = (scores >= scorer.threshold_column(low[rows])) & ~above
                count_near(_pairs(near, rows), queries, passages, limits, counts)
                counts[rows] = np.minimum(counts[rows], most)

    scorer.run(scan, lambda: np.flatnonzero(counts < most))
    return counts


def top_candidates(
    queries: Vectors, pool: Pool, k: int, *, backend: ScoringBackend | None = None
) -> tuple[Vectors, Numbers]:
    """(inner products float32, rows of the pool int64), both [B, min(k, P)]: each query's k passages of highest score.

    queries: [B, D]. pool: [P, D], read once from the first row on. Highest first, equal scores by lower row. Scores are
    rounded once, from double precision. k is meant to be small (some hundred): a passage is put into its place by
    insertion. Memory and errors as for `count_better`.
    """
    width = min(k, pool.shape[0])
    scores = np.full((len(queries), width), -np.inf, np.float32)
    found = np.full((len(queries), width), -1, np.int64)
    if width < 1:
        return scores, found
    queries = _plain(queries)
    scorer = _Scorer(queries, pool, backend or choose_backend())

    def scan(block: _Block, rows: Numbers) -> None:
        for start, rough in scorer.tiles(block, rows):
            passages, first = block.passages[start:], block.first + start
            if scorer.backend.compiled:
                take_best(scorer.codes(rough), rows, first, queries, passages, block.errors, scores, found)
            else:
                # The k-th of these has an exact score of at least its rough one less the error.
                kth = rough.topk(min(width, rough.shape[1])).values[:, -1].float().cpu().numpy()
                reached = kth - block.errors[rows] if rough.shape[1] >= width else np.full(len(rows), -np.inf)
                lowest = np.maximum(reached, scores[rows, -1]) - block.errors[rows]
                near = rough >= scorer.threshold_column(scorer.sortable_bits(lowest) - 1)
                take_near(_pairs(near, rows), first, queries, passages, scores, found)

    everything = np.arange(len(queries))
    scorer.run(scan, lambda: everything)
    return scores, found


@dataclass(frozen=True, slots=True)
class _Block:
    """Passages first, first + 1, … of the pool, [W, D]. errors: [B], the greatest error of a rough score of a query."""

    first: int
    passages: Vectors
    rounded: Tensor
    errors: Exact


class _Scorer:
    """Rough scores of queries [B, D] and pool [P, D].

    The bound on their error, with a^ the rounded a: |a^.b^ - a.b| <= |a^ - a| |b| + |a^| |b^ - b| (Cauchy-Schwarz), of
    which all lengths are measured; and for summing D products in float32, in any order and with up to two bits less
    than its rounding promises, D * 2^-22 * |a^| |b^|. That a bfloat16 score is itself rounded is met by the keys:
    rounding never turns the order of two numbers, and lines are laid one key further out.
    """

    def __init__(self, queries: Vectors, pool: Pool, backend: ScoringBackend) -> None:
        import torch

        if queries.shape[1] != pool.shape[1]:
            raise ValueError(f"wanted vectors of one length, got queries {queries.shape} and pool {pool.shape}")
        self.pool = pool
        self.backend = backend
        self.dtype: torch.dtype = getattr(torch, backend.dtype)
        self.bits = 8 * self.dtype.itemsize
        self.queries, self.lost, self.length = self._round(queries)

    def run(self, scan: Callable[[_Block, Numbers], None], alive: Callable[[], Numbers]) -> None:
        """`scan` of each block of the pool and some of the rows that `alive` names before it, in turn."""
        starts = range(0, self.pool.shape[0], POOL_BLOCK)
        size = ROWS if self.backend.compiled else POOL_BLOCK
        with _settings(), ThreadPoolExecutor(self.backend.threads) as executor:
            coming = executor.submit(self._block, 0)
            for start in starts:
                rows = alive()
                if not len(rows):
                    return
                block = coming.result()
                if start + POOL_BLOCK < self.pool.shape[0]:
                    coming = executor.submit(self._block, start + POOL_BLOCK)
                parts = [rows[at : at + size] for at in range(0, len(rows), size)]
                list(executor.map(partial(scan, block), parts))

    def tiles(self, block: _Block, rows: Numbers) -> Iterator[tuple[int, Tensor]]:
        """(first column within the block, rough scores of these rows) for all columns."""
        import torch

        chosen = self.queries[torch.from_numpy(rows).to(self.queries.device)]
        size = COLUMNS if self.backend.compiled else POOL_BLOCK
        for start in range(0, len(block.rounded), size):
            yield start, chosen @ block.rounded[start : start + size].T

    def codes(self, scores: Tensor) -> npt.NDArray[np.signedinteger[Any]]:
        """The bits of the scores."""
        import torch

        return scores.view(torch.int16 if self.bits == 16 else torch.int32).numpy()

    def sortable_bits(self, values: Exact) -> Numbers:
        """Keys of the rough numbers at or next to `values`: at most one key away, on either side."""
        bits = values.astype(np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> (32 - self.bits)

    def threshold_column(self, keys: Numbers) -> Tensor:
        """[R] keys as a column of rough numbers."""
        import torch

        bits = np.where(keys < 0, keys ^ ((1 << (self.bits - 1)) - 1), keys)
        column = torch.from_numpy(bits).to(torch.int16 if self.bits == 16 else torch.int32)
        return column.view(self.dtype)[:, None].to(self.backend.device)

    def _block(self, first: int) -> _Block:
        passages = np.array(self.pool[first : first + POOL_BLOCK], np.float32)
        rounded, lost, length = self._round(passages)
        errors = self.lost * (length + lost).max() + self.length * lost.max()
        errors += passages.shape[1] * 2.0**-22 * self.length * length.max() + 1e-30
        return _Block(first, _plain(passages), rounded, errors)

    def _round(self, vectors: Vectors) -> tuple[Tensor, Exact, Exact]:
        """(rounded vectors, length of what rounding took from each, length of each rounded one)."""
        import torch

        full = torch.from_numpy(np.require(vectors, requirements="W"))
        rounded = full.to(self.dtype)
        again = rounded.float()
        # One in a thousand more, for the rounding in these lengths themselves.
        lost, length = (1.001 * part.norm(dim=1).double().numpy() for part in (full - again, again))
        return rounded.to(self.backend.device), lost, length


@contextmanager
def _settings() -> Iterator[None]:
    """One of torch's threads for each of ours, and products no rougher than the bound on their error says."""
    import torch

    cuda = torch.backends.cuda.matmul
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        cuda.allow_bf16_reduced_precision_reduction = before[2]


def _pairs(near: Tensor, rows: Numbers) -> Numbers:
    """(row, column) of all that is True, by row and then column: int64 [N, 2]."""
    pairs = near.nonzero().cpu().numpy()
    pairs[:, 0] = rows[pairs[:, 0]]
    return pairs


def _plain(vectors: Vectors) -> Vectors:
    return read_only(np.ascontiguousarray(vectors, np.float32))
