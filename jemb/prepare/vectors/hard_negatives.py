"""Which passages of a pool become the hard negatives of a query: found by score, chosen by rank, bounds and chance.

Before: `mine.py` has vectors, hashes and the pool. After: it writes the texts of those chosen here. In all of it, equal
texts are told by `content_hash`, white space and case apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jemb.core.text import content_hash
from jemb.prepare.engine.table import scrambled

if TYPE_CHECKING:
    from jemb.prepare.stages.mine import MineConfig
    from jemb.prepare.vectors.scoring import Pool

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]

NONE = -1
SPARE = 12
"""Passages looked up beyond those that the ranks ask for, to stand in for those that answer the query."""
MOST = 1024
"""Passages looked up at most. Only a query with about as many answers, all nearer than anything else, gets fewer
negatives by that than it might."""


@dataclass(frozen=True, slots=True)
class Queries:
    """B rows. numbers: of the queries among the embeddings. hashes: of the queries. own: score of each with its
    positive. negatives: those the rows have."""

    ids: Numbers
    numbers: Numbers
    hashes: Hashes
    own: npt.NDArray[np.float64]
    negatives: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Passages:
    """The P passages of the pool: vectors, ids of their rows, hashes of their texts."""

    vectors: Pool
    ids: Numbers
    hashes: Hashes


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found for B rows.

    passages, scores: [B, num_negatives], rows of the pool, `NONE` where there are no more, and their cosines. lead:
    [C], of each candidate that the cross-encoder looked at, by how much the positive leads. right: [R, 2], row and
    passage of those that answer the query as the positive does, a row's in the order of their cosines.
    """

    passages: Numbers
    scores: Scores
    lead: Scores
    right: Numbers


Judge = Callable[[Numbers, Numbers, Flags], Scores]
"""(rows [B], passages [B, K], which of them to look at [B, K]) -> r(q, p) - r(q, n) of a cross-encoder [B, K]."""


def find_negatives(
    queries: Queries,
    take: Callable[[Numbers], Scores],
    pool: Passages,
    known: Hashes,
    config: MineConfig,
    seed: int,
    judge: Judge | None = None,
) -> Mined:
    """The hard negatives of each row.

    take: numbers of texts to their vectors. known: `pair_keys` of every row of the data set, sorted. judge: a passage
    of which it gives `rerank_margin` or less is no negative; one of which it gives -`relabel_margin` or less is a right
    answer.
    """
    from jemb.prepare.vectors.scoring import top_candidates

    places = np.repeat(np.arange(len(queries.ids), dtype=np.uint64), [len(texts) for texts in queries.negatives])
    has = np.sort(pair_keys(places, hashes([text for texts in queries.negatives for text in texts])))
    chosen = np.full((len(queries.ids), config.num_negatives), NONE)
    scores = np.zeros(chosen.shape, np.float32)
    leads, right = [np.empty(0, np.float32)], [np.empty((0, 2), np.int64)]
    rows = np.arange(len(queries.ids))
    count = config.skip + config.top + SPARE
    while len(rows):
        # Equal queries have the same neighbours.
        distinct, place = np.unique(queries.numbers[rows], return_inverse=True)
        near, passages = top_candidates(take(distinct), pool.vectors, count)
        found = Found(near[place], passages[place], queries.own[rows], queries.ids[rows])
        texts = pool.hashes[found.passages]
        had = contains(has, pair_keys(rows.astype(np.uint64)[:, None], texts))
        allowed = ~(had | answers(queries.hashes[rows], texts, known))
        done = is_complete(found, allowed, len(pool.ids), config) | (count >= MOST)
        found, ready = found.of(done), rows[done]
        left = candidates(found, allowed[done], config)
        if judge is not None:
            lead = judge(ready, found.passages, left)
            leads.append(lead[left])
            if config.relabel_margin is not None:
                row, column = np.nonzero(left & (lead <= -config.relabel_margin))
                right.append(np.stack([ready[row], found.passages[row, column]], axis=1))
            left &= lead > config.rerank_margin
        chosen[ready], scores[ready] = draw_negatives(found, left, pool.ids, config, seed)
        rows, count = rows[~done], min(4 * count, MOST)
    return Mined(chosen, scores, np.concatenate(leads), np.concatenate(right))


@dataclass(frozen=True, slots=True)
class Found:
    """The K nearest passages of each of B rows.

    scores: [B, K], descending. passages: [B, K], rows of the pool, `NONE` where there are no more. positive: [B], score
    of the row's own positive. ids: [B], the rows' ids.
    """

    scores: Scores
    passages: Numbers
    positive: npt.NDArray[np.float64]
    ids: Numbers

    def of(self, rows: Flags) -> Found:
        """Some of the rows."""
        return Found(self.scores[rows], self.passages[rows], self.positive[rows], self.ids[rows])


def candidates(found: Found, allowed: Flags, config: MineConfig) -> Flags:
    """[B, K]: what may become a negative. Of the allowed passages of a row the first `skip` are passed over; of the
    next `top` those are taken that keep the bounds on the cosine.

    allowed: [B, K], False for what is no negative whatever its score.
    """
    allowed = allowed & (found.passages != NONE)
    rank = np.cumsum(allowed, axis=1) - 1
    left = allowed & (rank >= config.skip) & (rank < config.skip + config.top)
    own = found.positive[:, None]
    if config.max_share is not None:
        # For a cosine below 0 its share would lie above it.
        left &= found.scores <= own - (1 - config.max_share) * np.abs(own)
    if config.margin is not None:
        left &= found.scores <= own - config.margin
    return left


def draw_negatives(
    found: Found, left: Flags, pool_ids: Numbers, config: MineConfig, seed: int
) -> tuple[Numbers, Scores]:
    """(rows of the pool to be negatives, their scores), both [B, num_negatives]: the nearest first, then `NONE` and 0
    where fewer are left.

    left: [B, K], of which `num_negatives` are drawn. pool_ids: [P], ids of the passages: the draw depends on (seed, id
    of the row, ids of the passages) alone.
    """
    row = scrambled(found.ids, seed, "mine rows")[:, None]
    passage = scrambled(pool_ids[found.passages], seed, "mine passages")
    draw = scrambled((row ^ passage).view(np.int64), seed, "mine") >> np.uint64(1)
    # What is not left comes after all that is; `draw` is below 2^63.
    order = np.argsort(np.where(left, draw, np.uint64(1) << np.uint64(63)), axis=1, kind="stable")
    chosen = np.zeros_like(left)
    np.put_along_axis(chosen, order[:, : config.num_negatives], True, axis=1)
    chosen &= left
    # Chosen ones to the front, in the order of their scores.
    front = np.argsort(~chosen, axis=1, kind="stable")[:, : config.num_negatives]
    passages = np.full((len(left), config.num_negatives), NONE)
    scores = np.zeros(passages.shape, np.float32)
    passages[:, : front.shape[1]] = np.take_along_axis(np.where(chosen, found.passages, NONE), front, axis=1)
    scores[:, : front.shape[1]] = np.take_along_axis(np.where(chosen, found.scores, np.float32(0)), front, axis=1)
    return passages, scores


def is_complete(found: Found, allowed: Flags, pool_size: int, config: MineConfig) -> Flags:
    """[B]: whether the K passages hold all that the ranks ask for, or all there are."""
    enough = np.count_nonzero(allowed & (found.passages != NONE), axis=1) >= config.skip + config.top
    return enough | (found.passages.shape[1] >= pool_size)


# Equal texts.


def hashes(texts: Sequence[str]) -> Hashes:
    """[N] numbers that are equal where the normalised texts are."""
    return np.fromiter(map(content_hash, texts), np.int64, len(texts)).view(np.uint64)


def pair_keys(queries: Hashes, passages: Hashes) -> Hashes:
    """A number for each pair of texts, of which the hashes are given: [N], [N] -> [N], or as they broadcast."""
    return queries * np.uint64(0x9E3779B97F4A7C15) ^ passages


def answers(queries: Hashes, passages: Hashes, known: Hashes) -> Flags:
    """[B, K]: whether a passage says what the query says, or is a positive of an equal query.

    queries: [B]. passages: [B, K]. known: `pair_keys` of every row of the data set, sorted; may be a memory map.
    """
    return (passages == queries[:, None]) | contains(known, pair_keys(queries[:, None], passages))


def contains(known: Hashes, keys: Hashes) -> Flags:
    """Which of the keys are among the sorted `known`; the shape of `keys`."""
    if not len(known):
        return np.zeros(keys.shape, dtype=bool)
    at = np.searchsorted(known, keys)
    return known[np.minimum(at, len(known) - 1)] == keys
