"""Keyed permutations: one-to-one, well mixed, and pinned for ever."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jemb.core.seeds import scramble
from jemb.data.permutation import mix, permute, shuffled

KEYS = st.integers(0, 2**64 - 1)
AROUND_4096 = [1, 2, 3, 4095, 4096, 4097, 4098, 4160, 4161, 4225, 4226, 8191, 8192, 10_000, 10_001]


def everything(n: int, key: int) -> np.ndarray:
    return permute(np.arange(n), n, key)


@pytest.mark.parametrize("n", AROUND_4096)
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_every_number_once(n: int, key: int) -> None:
    assert np.array_equal(np.sort(everything(n, key)), np.arange(n))


@settings(max_examples=60)
@given(n=st.integers(1, 30_000), key=KEYS)
def test_every_number_once_for_any_size(n: int, key: int) -> None:
    assert np.array_equal(np.sort(everything(n, key)), np.arange(n))


@settings(max_examples=40)
@given(n=st.integers(4097, 2**34), key=KEYS, start=st.integers(0, 2**34))
def test_no_collisions_in_large_ranges(n: int, key: int, start: int) -> None:
    first = start % max(1, n - 5_000)
    places = np.unique(
        np.concatenate([np.arange(first, min(first + 5_000, n)), np.linspace(0, n - 1, 5_000, dtype=int)])
    )
    out = permute(places, n, key)
    assert np.unique(out).size == places.size
    assert out.min() >= 0
    assert out.max() < n


@settings(max_examples=30)
@given(n=st.integers(2, 2**34), key=KEYS, data=st.data())
def test_a_place_does_not_depend_on_what_else_is_asked(n: int, key: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    alone = [int(permute(np.array([place]), n, key)[0]) for place in places]
    assert permute(places, n, key).tolist() == alone


def test_the_arguments_are_left_alone() -> None:
    for n in (100, 5_000):
        places = np.arange(10)
        out = permute(places, n, 1)
        out[:] = -1  # a caller's change must not reach a table kept for the next call
        assert places.tolist() == list(range(10))
        assert permute(places, n, 1).min() >= 0


@pytest.mark.parametrize("n", [500, 5_003])
def test_positions_are_uniform_over_keys(n: int) -> None:
    """Where fixed positions go under 2,000 keys: chi-square against equal bins."""
    places = np.array([0, 1, n // 2, n - 1])
    seen = np.array([permute(places, n, mix("test", key)) for key in range(2_000)])
    for column in seen.T:
        assert stats.chisquare(np.bincount(column * 50 // n, minlength=50)).pvalue > 1e-5


@pytest.mark.parametrize("n", [4_000, 200_003])
def test_neighbours_part_and_passes_are_unlike(n: int) -> None:
    one, other = everything(n, mix("a", 0)), everything(n, mix("a", 1))
    for differences in ((one[1:] - one[:-1]) % n, (other - one) % n, (one - np.arange(n)) % n):
        assert stats.chisquare(np.bincount(differences * 50 // n, minlength=50)).pvalue > 1e-5
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(n)


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=4)), max_size=4))
@settings(max_examples=50)
def test_mix_is_a_64_bit_number(parts: list[int | str]) -> None:
    assert 0 <= mix(*parts) < 2**64
    assert mix(*parts) == mix(*parts)


def test_mix_tells_parts_apart() -> None:
    keys = [mix(), mix(""), mix("", ""), mix("a", "b"), mix("ab"), mix("b", "a"), mix(0), mix(0, 0), mix(1), mix(256)]
    assert len(set(keys)) == len(keys)


def test_scramble_is_splitmix64() -> None:
    """The first outputs of the published splitmix64 from seed 1234567 (the state grows by the golden gamma)."""
    state = (np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert scramble(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_golden_values() -> None:
    """A changed order would silently repeat and skip samples of runs that are resumed."""
    assert mix("order", 7, "name") == GOLDEN_MIX
    assert shuffled(8, 42).tolist() == GOLDEN_SHUFFLED
    assert permute(np.arange(6), 4096, 42).tolist() == GOLDEN_TABLE
    assert permute(np.arange(6), 1_000_003, 42).tolist() == GOLDEN_FEISTEL
    assert permute(np.arange(6), 2**34 - 5, 2**64 - 1).tolist() == GOLDEN_LARGE


GOLDEN_MIX = 7775959861036807263
GOLDEN_SHUFFLED = [3, 2, 5, 1, 4, 0, 7, 6]
GOLDEN_TABLE = [516, 1074, 3209, 1508, 3587, 970]
GOLDEN_FEISTEL = [601053, 751315, 448344, 383150, 138550, 28752]
GOLDEN_LARGE = [2621624628, 1124779979, 5736019618, 14633368411, 10991315612, 14708882972]
