"""Plans with `shuffle_shards`: the laws of the plan still hold, and a batch needs few shards that are known before."""

import hashlib
import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.data import BatchPlan, PlanSource, permutation
from jemb.data.permutation import WindowedPass, mix, permute, shuffled


def plan_of(sizes: dict[str, list[int]], number: int | None, *, seed: int = 0, batch: int = 8) -> BatchPlan:
    sources = [PlanSource(name, sum(shards), f"of {name}", 1.0, tuple(shards)) for name, shards in sizes.items()]
    return BatchPlan(sources, seed=seed, global_batch_size=batch, shuffle_shards=number)


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    """Also data sets of one batch, shards of a single sample, empty shards, windows shorter than a batch, and longer
    than a data set."""
    batch = draw(st.integers(2, 24))
    sizes = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4, unique=True)):
        shards = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12))
        shards[-1] += max(0, batch - sum(shards))
        sizes[name] = shards
    return plan_of(sizes, draw(st.integers(1, 14)), seed=draw(st.integers(0, 2**64 - 1)), batch=batch)


def shard_of(plan: BatchPlan, name: str, rows: np.ndarray) -> np.ndarray:
    """By counting, not by the plan's own search."""
    (source,) = (source for source in plan.sources if source.name == name)
    return np.repeat(np.arange(len(source.shard_sizes)), source.shard_sizes)[rows]


@settings(max_examples=60)
@given(plan=plans())
def test_every_pass_is_a_permutation_and_no_batch_repeats(plan: BatchPlan) -> None:
    streams: dict[str, list[np.ndarray]] = {source.name: [] for source in plan.sources}
    for step in range(150):
        name, rows = plan.batch(step)
        assert len(np.unique(rows)) == plan.global_batch_size
        streams[name].append(rows)
    for source in plan.sources:
        rows = np.concatenate([*streams[source.name], np.empty(0, int)])
        for first in range(0, len(rows), source.num_samples):
            part = np.sort(rows[first : first + source.num_samples])
            assert len(np.unique(part)) == len(part)
            if len(part) == source.num_samples:
                assert np.array_equal(part, np.arange(source.num_samples))


@settings(max_examples=60)
@given(plan=plans())
def test_the_named_windows_hold_every_row(plan: BatchPlan) -> None:
    for step in range(120):
        name, rows = plan.batch(step)
        named, windows = plan.windows(step)
        assert named == name
        assert len(set(windows)) == len(windows)
        shards = np.concatenate([plan.window_shards(name, window) for window in windows])
        assert set(shard_of(plan, name, rows).tolist()) <= set(shards.tolist())


@settings(max_examples=40)
@given(plan=plans())
def test_windows_of_a_pass_share_out_its_shards(plan: BatchPlan) -> None:
    assert plan.shuffle_shards
    for source in plan.sources:
        for number in range(3):
            count = math.ceil(len(source.shard_sizes) / plan.shuffle_shards)
            parts = [plan.window_shards(source.name, (number, window)) for window in range(count)]
            assert all(len(part) == plan.shuffle_shards for part in parts[:-1])
            assert sorted(np.concatenate(parts).tolist()) == list(range(len(source.shard_sizes)))


@pytest.mark.slow
@settings(max_examples=25)
@given(plan=plans())
def test_pure_in_any_order_and_after_pickling(plan: BatchPlan) -> None:
    fresh = BatchPlan(
        list(reversed(plan.sources)),
        seed=plan.seed,
        global_batch_size=plan.global_batch_size,
        shuffle_shards=plan.shuffle_shards,
    )
    copied = pickle.loads(pickle.dumps(plan))
    for step in [3_000, *range(30), 1_024]:
        name, rows = plan.batch(step)
        for other in (fresh, copied):
            assert other.fingerprint == plan.fingerprint
            assert (name, rows.tolist()) == (other.batch(step)[0], other.batch(step)[1].tolist())


def test_few_shards_at_a_time() -> None:
    """100 shards of 50, windows of 4: over a pass, all batches of 20 steps in a row touch no more than two windows;
    with any sample next they touch nearly all."""
    sizes = {"a": [50] * 100}
    found = {}
    for number in (4, None):
        plan = plan_of(sizes, number, batch=10)
        touched = [set(shard_of(plan, *plan.batch(step)).tolist()) for step in range(500)]
        found[number] = max(len(set().union(*touched[first : first + 20])) for first in range(0, 480, 5))
    assert found[4] <= 8
    assert found[None] > 80


def test_samples_and_shards_come_in_a_new_order_each_pass() -> None:
    """Within a window samples of all its shards are mixed evenly: 3 windows of 4 shards, counted in tenths."""
    plan = plan_of({"a": [100] * 12}, 4, batch=40)
    rows = np.concatenate([plan.batch(step)[1] for step in range(90)]).reshape(3, 3, 400)
    shards = rows // 100
    orders = {tuple(sorted(set(window.tolist()))) for one_pass in shards for window in one_pass}
    assert len(orders) > 3, "other shards meet in the next pass"
    for one_pass in shards[:, :, 80:]:  # the first two batches of a pass may be patched
        for window in one_pass:
            counts = np.array([[np.sum(tenth == shard) for shard in set(window)] for tenth in np.split(window, 8)])
            assert counts.min() >= 1, "no shard is missing from any stretch of 40"
    assert len({tuple(one_pass.ravel().tolist()) for one_pass in rows}) == 3


def test_one_window_of_all_shards_is_no_other_law() -> None:
    plan = plan_of({"a": [7, 1, 30, 12]}, 9, batch=10)
    rows = np.concatenate([plan.batch(step)[1] for step in range(20)])
    assert (np.sort(rows.reshape(-1, 50)) == np.arange(50)).all()


def test_the_fingerprint_tells_windows_apart() -> None:
    sizes = {"a": [20, 20]}
    prints = {plan_of(sizes, number).fingerprint for number in (None, 1, 2)}
    assert len(prints | {plan_of({"a": [10, 30]}, 1).fingerprint}) == 4
    plain = BatchPlan([PlanSource("a", 40, "of a")], seed=0, global_batch_size=8)
    assert plan_of(sizes, None).fingerprint == plain.fingerprint, "runs without it go on as they did"


def test_25_000_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.5 billion samples: memory of a few arrays of shards; once its pass is known, a step looks at its rows alone."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(50_000, 70_000, 25_000).tolist()
    plan = plan_of({"a": sizes}, 64, batch=16_384)
    tracemalloc.start()
    try:
        for step in (0, 1, 80_000, 91_552, 10**7):
            name, rows = plan.batch(step)
            assert len(np.unique(rows)) == 16_384
            shards = np.concatenate([plan.window_shards(name, window) for window in plan.windows(step)[1]])
            assert len(shards) <= 3 * 64
            assert np.isin(np.searchsorted(np.cumsum(sizes), rows, side="right"), shards).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    plan.batch(99)
    permuted: list[int] = []

    def counting(places: np.ndarray, *rest: int) -> np.ndarray:
        permuted.append(len(places))
        return permute(places, *rest)

    monkeypatch.setattr(permutation, "permute", counting)
    monkeypatch.setattr(permutation, "shuffled", None)
    for step in range(100, 120):
        plan.batch(step)
    assert sum(permuted) == 20 * 16_384


def test_a_slow_reference() -> None:
    """The pass, written as lists: order the shards, cut them into windows, apply the keyed permutation to each."""
    sizes, number, key = [5, 0, 17, 1, 9, 30, 2], 3, 99
    rows_of = [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]
    expected: list[int] = []
    order = shuffled(len(sizes), mix("shards", key)).tolist()
    for window, shards in enumerate([order[i : i + number] for i in range(0, len(order), number)]):
        rows = [row for shard in shards for row in rows_of[shard]]
        places = permute(np.arange(len(rows)), len(rows), mix("window", key, window))
        expected += [rows[place] for place in places]
    one_pass = WindowedPass(np.array(sizes), number, key)
    for start, stop in itertools.combinations(range(len(expected) + 1), 2):
        assert one_pass.rows(start, stop).tolist() == expected[start:stop]


@pytest.mark.parametrize(
    ("seed", "first", "digest"),
    [
        (0, [5844, 6391, 7244, 62, 1967, 4260, 2704, 1945], "59b6a70b2c88bb09"),
        (2**63, [8018, 7687, 7073, 6312, 6759, 7487, 5318, 6028], "05909e04ca343da8"),
    ],
)
def test_golden_values(seed: int, first: list[int], digest: str) -> None:
    """A change here breaks every run that is resumed: raise PLAN_VERSION with it."""
    plan = plan_of({"a": [20, 9, 31, 40, 16], "b": [5, 50], "c": [5_000, 3_000, 100]}, 2, seed=seed)
    steps = [plan.batch(step) for step in (*range(40), 1_023, 1_024, 10**6)]
    assert steps[0][1].tolist() == first
    found = "\n".join(f"{name} {rows.tolist()}" for name, rows in steps)
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == digest
