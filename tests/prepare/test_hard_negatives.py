"""The choice of hard negatives against a loop over Python lists, and by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from jemb.prepare.stages.mine import MineConfig
from jemb.prepare.vectors.hard_negatives import (
    NONE,
    Found,
    answers,
    candidates,
    contains,
    draw_negatives,
    hashes,
    is_complete,
    pair_keys,
)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def found(draw: np.random.Generator, rows: int, k: int, pool: int) -> Found:
    scores = -np.sort(-draw.uniform(-0.2, 1, (rows, k)).astype(np.float32), axis=1)
    passages = np.array([draw.permutation(pool)[:k] for _ in range(rows)])
    return Found(scores, passages, draw.uniform(-0.1, 1, rows), draw.permutation(10_000)[:rows])


def choose_negatives(
    found: Found, allowed: np.ndarray, pool_ids: np.ndarray, config: MineConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    return draw_negatives(found, candidates(found, allowed, config), pool_ids, config, seed)


def may_be_drawn(found: Found, allowed: np.ndarray, row: int, config: MineConfig) -> list[int]:
    """What may be drawn for a row, by the words of the options."""
    own = float(found.positive[row])
    usable = [
        (float(s), int(p)) for s, p, ok in zip(found.scores[row], found.passages[row], allowed[row], strict=True) if ok
    ]
    kept = []
    for score, passage in usable[config.skip : config.skip + config.top]:
        if config.max_share is not None and score > own - (1 - config.max_share) * abs(own):
            continue
        if config.margin is not None and score > own - config.margin:
            continue
        kept.append(passage)
    return kept


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip": 3, "top": 5, "num_negatives": 4},
        {"max_share": None, "top": 8},
        {"max_share": None, "margin": 0.3},
        {"margin": 0.1, "max_share": 0.8, "top": 12, "num_negatives": 2},
        {"top": 1, "num_negatives": 1, "max_share": 1.0},
    ],
)
def test_against_a_loop(draw: np.random.Generator, options: dict[str, Any]) -> None:
    config = MineConfig(**options)
    given = found(draw, 60, 25, 200)
    allowed = draw.random((60, 25)) < 0.4
    pool_ids = draw.permutation(5000)[:200]
    chosen, scores = choose_negatives(given, allowed, pool_ids, config, seed=1)
    assert chosen.shape == scores.shape == (60, config.num_negatives)
    sizes = Counter()
    for row, passages in enumerate(chosen.tolist()):
        may = may_be_drawn(given, allowed, row, config)
        taken = [passage for passage in passages if passage != NONE]
        assert passages == taken + [NONE] * (config.num_negatives - len(taken))
        assert len(taken) == min(len(may), config.num_negatives)
        assert taken == [passage for passage in may if passage in taken]  # in order of score, each once
        of = dict(zip(given.passages[row].tolist(), given.scores[row].tolist(), strict=True))
        assert scores[row].tolist() == [of.get(passage, 0.0) for passage in passages]
        sizes[len(taken)] += 1
    assert len(sizes) > 1  # rows with many, few and none


def test_every_candidate_is_drawn_equally_often() -> None:
    rows = 4000
    given = Found(
        np.tile(np.linspace(0.5, 0.1, 10, dtype=np.float32), (rows, 1)),
        np.tile(np.arange(10), (rows, 1)),
        np.ones(rows),
        np.arange(rows),
    )
    chosen, _ = choose_negatives(
        given, np.ones((rows, 10), bool), np.arange(10), MineConfig(num_negatives=3, top=10), 0
    )
    counts = np.bincount(chosen.ravel(), minlength=10)
    assert counts.sum() == 3 * rows
    # 1200 each, standard deviation 29.
    assert np.abs(counts - 1200).max() < 130
    pairs = Counter(map(tuple, chosen[:, :2].tolist()))
    assert len(pairs) > 30


def test_the_draw_hangs_on_seed_and_ids_alone(draw: np.random.Generator) -> None:
    config = MineConfig(num_negatives=2, max_share=None)
    given = found(draw, 40, 12, 50)
    allowed = np.ones((40, 12), bool)
    ids = np.arange(100, 150)
    chosen, _ = choose_negatives(given, allowed, ids, config, seed=3)
    order = draw.permutation(40)
    shuffled = Found(given.scores[order], given.passages[order], given.positive[order], given.ids[order])
    np.testing.assert_array_equal(choose_negatives(shuffled, allowed, ids, config, seed=3)[0], chosen[order])
    # Another numbering of the pool, the same passages.
    turned = Found(given.scores, 49 - given.passages, given.positive, given.ids)
    np.testing.assert_array_equal(49 - choose_negatives(turned, allowed, ids[::-1], config, seed=3)[0], chosen)
    # More of the ranking than is looked at, and a row dropped before, change nothing.
    wider = Found(*(np.concatenate([part, part], axis=1) if part.ndim == 2 else part for part in vars_of(given)))
    narrow = MineConfig(num_negatives=2, max_share=None, top=12)
    np.testing.assert_array_equal(
        choose_negatives(wider, np.ones((40, 24), bool), ids, narrow, seed=3)[0],
        choose_negatives(given, allowed, ids, narrow, seed=3)[0],
    )
    assert (choose_negatives(given, allowed, ids, config, seed=4)[0] != chosen).any()


def vars_of(given: Found) -> tuple[np.ndarray, ...]:
    return given.scores, given.passages, given.positive, given.ids


def test_hand_worked_bounds() -> None:
    # 0.95 * 0.8 = 0.76; 0.8 - 0.1 = 0.7.
    given = Found(
        np.array([[0.9, 0.77, 0.75, 0.7, 0.3]], np.float32), np.array([[4, 3, 2, 1, 0]]), np.array([0.8]), np.array([7])
    )
    allowed = np.ones((1, 5), bool)

    def chosen(**options: Any) -> list[int]:
        return choose_negatives(given, allowed, np.arange(5), MineConfig(**options), 0)[0][0].tolist()

    assert chosen() == [2, 1, 0, -1, -1, -1, -1]
    assert chosen(margin=0.09) == [1, 0, -1, -1, -1, -1, -1]
    assert chosen(max_share=None) == [4, 3, 2, 1, 0, -1, -1]
    assert chosen(max_share=None, skip=1, top=2, num_negatives=2) == [3, 2]
    assert chosen(skip=1, top=2, num_negatives=2) == [2, -1]  # the bound is not made up for by later ranks
    allowed = np.array([[True, False, True, True, True]])
    assert chosen(max_share=None, skip=1, top=2, num_negatives=2) == [2, 1]  # ranks count what is allowed


def test_no_passage_lies_under_a_share_of_a_negative_score() -> None:
    given = Found(np.array([[-0.05, -0.2]], np.float32), np.array([[0, 1]]), np.array([-0.1]), np.array([0]))
    chosen, _ = choose_negatives(given, np.ones((1, 2), bool), np.arange(2), MineConfig(num_negatives=1), 0)
    assert chosen.tolist() == [[1]]  # -0.05 is above -0.095, and above the positive


def test_complete_when_the_ranks_are_filled_or_the_pool_is_used_up(draw: np.random.Generator) -> None:
    given = found(draw, 2, 4, 10)
    allowed = np.array([[True] * 4, [True, True, False, False]])
    config = MineConfig(top=2, skip=1, num_negatives=1)
    assert is_complete(given, allowed, 10, config).tolist() == [True, False]
    assert is_complete(given, allowed, 4, config).tolist() == [True, True]


def test_answers_are_the_query_itself_and_positives_of_equal_queries() -> None:
    texts = hashes(["What is it?", "what  IS it?", "a dog", "a cat", "A Cat", "a fish"])
    assert texts[0] == texts[1]
    assert texts[3] == texts[4]
    assert len(set(texts.tolist())) == 4
    query, _, dog, cat, _, fish = texts
    known = np.sort(pair_keys(np.array([query, dog, query]), np.array([cat, fish, dog])))
    passages = np.array([[query, dog, cat, fish], [query, dog, cat, fish]])
    found_answers = answers(np.array([query, dog]), passages, known)
    assert found_answers.tolist() == [[True, True, True, False], [False, True, False, True]]


def test_contains(draw: np.random.Generator) -> None:
    known = np.sort(draw.integers(0, 50, 30).astype(np.uint64))
    keys = np.arange(52, dtype=np.uint64).reshape(4, 13)
    np.testing.assert_array_equal(contains(known, keys), np.isin(keys, known))
    assert not contains(known[:0], keys).any()
