"""Dealing a global batch: every sample to one rank, equal counts, nearly equal amounts; and the sizes it goes by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.data.deal import PayloadSizes, check_sum, deal
from jemb.shards import encode_payload, open_datasets


def dealt(sizes: np.ndarray, num_ranks: int) -> list[np.ndarray]:
    return [deal(sizes, rank, num_ranks) for rank in range(num_ranks)]


def test_by_hand() -> None:
    """9 8 | 7 6 | 5 4 | 3 2, the order of each second pair turned round."""
    sizes = np.array([2, 9, 5, 3, 8, 4, 6, 7])
    assert [sizes[mine].tolist() for mine in dealt(sizes, 2)] == [[2, 9, 5, 6], [3, 8, 4, 7]]


@settings(max_examples=100)
@given(
    ranks=st.integers(1, 9),
    rounds=st.integers(1, 9),
    sizes=st.lists(st.integers(0, 2**32 - 1), min_size=81, max_size=81),
)
def test_every_sample_goes_to_one_rank(ranks: int, rounds: int, sizes: list[int]) -> None:
    taken = np.array(sizes)[: ranks * rounds]
    shares = dealt(taken, ranks)
    assert sorted(np.concatenate(shares).tolist()) == list(range(ranks * rounds))
    assert all(len(share) == rounds and (np.diff(share) > 0).all() for share in shares)
    # Two ranks differ by less than the largest and smallest sample do, however many rounds there are.
    sums = [int(taken[share].sum()) for share in shares]
    assert max(sums) - min(sums) <= int(taken.max() - taken.min())


def test_equal_sizes_are_dealt_the_same_everywhere() -> None:
    sizes = np.repeat([5, 3], 512)
    assert [share.tolist() for share in dealt(sizes, 4)] == [share.tolist() for share in dealt(sizes.copy(), 4)]


@pytest.mark.parametrize(("ranks", "bound"), [(2, 1.0005), (8, 1.001), (64, 1.003)])
def test_long_tailed_lengths(ranks: int, bound: float) -> None:
    lengths = np.clip(np.random.default_rng(1).lognormal(4, 1, 16_384), 2, 512).astype(np.int64)
    sums = np.array([lengths[share].sum() for share in dealt(lengths, ranks)])
    drawn = lengths.reshape(ranks, -1).sum(1)
    assert sums.max() / sums.mean() < bound < drawn.max() / drawn.mean()


def test_sizes_are_the_payloads(pair_shards: Path, triplet_shards: Path) -> None:
    for reader in (*open_datasets(pair_shards).values(), *open_datasets(triplet_shards).values()):
        rows = np.random.default_rng(0).permutation(len(reader))
        assert PayloadSizes(reader)(rows).tolist() == [len(encode_payload(reader.read(int(row)))) for row in rows]
        assert PayloadSizes(reader)(rows[:1]).tolist() == [len(encode_payload(reader.read(int(rows[0]))))]


def test_an_index_that_goes_away(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    reader = open_datasets(make_dataset(tmp_path, "a", 40))["a"]
    (tmp_path / "a" / "shard-000001.idx.npy").unlink()
    sizes = PayloadSizes(reader)
    assert len(sizes(np.arange(16))) == 16
    with pytest.raises(InputError, match=r"shard-000001\.idx\.npy: damaged, or cannot be read \(No such file"):
        sizes(np.arange(40))


def test_check_sums_tell_rows_steps_and_data_sets_apart() -> None:
    rows = np.arange(1000)
    whole = check_sum(3, "a", rows)
    assert 0 <= whole < 2**32
    assert check_sum(3, "a", rows[::-1]) == whole, "the order does not matter"
    assert (check_sum(3, "a", rows[:400]) + check_sum(3, "a", rows[400:])) % 2**32 == whole
    others = [(3, "a", rows + 1), (4, "a", rows), (3, "b", rows), (3, "a", rows[1:])]
    assert len({whole, *(check_sum(*other) for other in others)}) == 5
