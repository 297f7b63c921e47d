"""The laws of the batch plan: pure; data sets by size and weight; each sample once a pass, and never twice a batch."""

import hashlib
import itertools
import math
import pickle
import random
import tracemalloc
from collections import defaultdict
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.data import BatchPlan, PlanSource
from jemb.data.sampler import GlobalBatchSampler
from jemb.data.small import SmallDatasets, own_batch


def plan_of(
    sizes: dict[str, int], *, seed: int = 0, batch: int = 8, weights: dict[str, float] | None = None
) -> BatchPlan:
    sources = [
        PlanSource(name, size, f"print of {name}", (weights or {}).get(name, 1.0)) for name, size in sizes.items()
    ]
    return BatchPlan(sources, seed=seed, global_batch_size=batch)


def streams(plan: BatchPlan, steps: int) -> dict[str, np.ndarray]:
    """The rows of each data set in the order they come, after checking each batch by itself."""
    rows = defaultdict(list)
    for step in range(steps):
        name, batch = plan.batch(step)
        assert len(batch) == plan.global_batch_size
        assert len(set(batch.tolist())) == len(batch), f"step {step} holds a row twice"
        rows[name].append(batch)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


@st.composite
def plans(draw: st.DrawFn, longest: float = 6) -> BatchPlan:
    batch = draw(st.integers(2, 24))
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5, unique=True))
    sizes = {name: draw(st.integers(batch, int(batch * longest))) for name in names}
    weights = {name: draw(st.floats(0.01, 100)) for name in names}
    return plan_of(sizes, seed=draw(st.integers(0, 2**64 - 1)), batch=batch, weights=weights)


@settings(max_examples=40)
@given(plan=plans())
def test_a_data_set_is_used_up_before_a_sample_comes_again(plan: BatchPlan) -> None:
    for source in plan.sources:
        rows = streams(plan, 120).get(source.name, np.empty(0, int))
        for first in range(0, len(rows), source.num_samples):
            one_pass = rows[first : first + source.num_samples]
            if len(one_pass) == source.num_samples:
                assert np.array_equal(np.sort(one_pass), np.arange(source.num_samples))
            else:
                assert len(np.unique(one_pass)) == len(one_pass)
                assert one_pass.min() >= 0
                assert one_pass.max() < source.num_samples


@pytest.mark.parametrize("batch", [2, 7, 16])
def test_no_batch_holds_a_sample_twice_at_the_border_of_passes(batch: int) -> None:
    """Every size from one batch to five: with the short ones the border falls into nearly every batch."""
    for size in range(batch, 5 * batch + 1):
        plan = plan_of({"a": size}, batch=batch, seed=size)
        rows = streams(plan, 40)["a"]
        whole = len(rows) // size
        passes = rows[: whole * size].reshape(whole, size)
        assert (np.sort(passes) == np.arange(size)).all(), f"{size} samples, batches of {batch}"
        if size > 3:
            assert len(np.unique(passes, axis=0)) > 1, "each pass has a new order"


def test_long_passes() -> None:
    plan = plan_of({"a": 5_000, "b": 4_100}, batch=512, seed=3)  # the permutation that needs no table
    for source in plan.sources:
        rows = streams(plan, 60)[source.name]
        passes = rows[: len(rows) // source.num_samples * source.num_samples].reshape(-1, source.num_samples)
        assert len(passes) >= 2
        assert (np.sort(passes) == np.arange(source.num_samples)).all()


@settings(max_examples=25)
@given(plan=plans(), seed=st.integers(0, 999))
def test_pure_in_any_order_and_after_pickling(plan: BatchPlan, seed: int) -> None:
    steps = [*range(30), 1023, 1024, 3_000]
    expected = {step: plan.batch(step) for step in steps}
    random.Random(seed).shuffle(steps)
    fresh = BatchPlan(list(reversed(plan.sources)), seed=plan.seed, global_batch_size=plan.global_batch_size)
    for other in (fresh, pickle.loads(pickle.dumps(plan))):
        assert other.fingerprint == plan.fingerprint
        for step in steps:
            name, rows = other.batch(step)
            assert (name, rows.tolist()) == (expected[step][0], expected[step][1].tolist())


def test_a_callers_change_does_not_reach_the_next_call() -> None:
    plan = plan_of({"a": 19}, batch=8)
    before = [plan.batch(step)[1].tolist() for step in range(6)]
    for step in range(6):
        plan.batch(step)[1][:] = 0
    assert [plan.batch(step)[1].tolist() for step in range(6)] == before


@settings(max_examples=60)
@given(plan=plans(), steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_counts_are_exact_and_never_fall(plan: BatchPlan, steps: list[int]) -> None:
    bound = math.ceil(math.log2(len(plan.sources))) + 1
    before = dict.fromkeys(plan.shares, 0)
    for step in sorted(steps):
        counts = counts_of(plan, step)
        assert sum(counts.values()) == step
        for name, share in plan.shares.items():
            assert abs(counts[name] - step * share) <= bound
            assert counts[name] >= before[name]
        before = counts


def counts_of(plan: BatchPlan, steps: int) -> dict[str, int]:
    """Batches of each data set by `steps`, as the plan apportions them to its blocks."""
    return dict(zip(plan.shares, plan._counts(steps), strict=True))


def test_counts_never_fall_from_step_to_step() -> None:
    plan = plan_of({name: 8 + 30 * number for number, name in enumerate("abcdefg")}, weights={"a": 0.001, "d": 7})
    table = np.array([list(counts_of(plan, step).values()) for step in range(3_000)])
    grown = np.diff(table, axis=0)
    assert grown.min() == 0
    assert grown.max() == 1
    assert (grown.sum(1) == 1).all()


def test_shares_follow_size_times_weight() -> None:
    """P(i) = |D_i| s_i / sum: 100*1, 300*2, 50*0.5 of 725; drawn batches are counted, not the plan's own claim."""
    plan = plan_of({"a": 100, "b": 300, "c": 50}, weights={"b": 2, "c": 0.5}, batch=2)
    wanted = {"a": 100 / 725, "b": 600 / 725, "c": 25 / 725}
    assert plan.shares == pytest.approx(wanted, rel=1e-9)
    steps = 20_000
    names = [plan.batch(step)[0] for step in range(steps)]
    for name, share in wanted.items():
        assert abs(names.count(name) - steps * share) <= 3 * math.sqrt(steps * share * (1 - share))
        whole_blocks = names[: 1024 * 19].count(name)
        assert whole_blocks == counts_of(plan, 1024 * 19)[name]


def test_the_order_of_data_sets_is_random() -> None:
    """Two equal data sets: as many changes from one to the other as a fair coin has (2,048 steps, 5 sigma)."""
    plan = plan_of({"a": 64, "b": 64}, seed=5)
    names = [plan.batch(step)[0] for step in range(2_048)]
    changes = sum(one != other for one, other in itertools.pairwise(names))
    assert abs(changes - 1_023.5) < 5 * math.sqrt(2_047 / 4)
    assert names[:1_024] != names[1_024:]


def test_another_data_set_leaves_the_order_of_the_others() -> None:
    with_b = streams(plan_of({"a": 37, "c": 90}), 200)
    with_more = streams(plan_of({"a": 37, "b": 55, "c": 90, "0": 8}, weights={"b": 3}), 600)
    for name in ("a", "c"):
        shared = min(len(with_b[name]), len(with_more[name]))
        assert shared > 2 * 37
        assert with_b[name][:shared].tolist() == with_more[name][:shared].tolist()


def test_seeds_and_passes_are_not_the_same_thing() -> None:
    """Pass 1 of seed s is not pass 0 of seed s + 1, nor do two data sets share an order."""
    size, batch = 40, 8
    orders = {}
    for seed in range(4):
        found = streams(plan_of({"a": size, "b": size}, seed=seed, batch=batch), 60)
        for name, rows in found.items():
            for number in range(3):
                orders[seed, name, number] = tuple(rows[number * size : (number + 1) * size].tolist())
    assert len(set(orders.values())) == len(orders) == 4 * 2 * 3


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch": 4},
        {"weights": {"a": 2.0}},
        {"sizes": {"a": 41, "b": 50}},
        {"sizes": {"a": 40, "b": 50, "c": 60}},
        {"sizes": {"x": 40, "b": 50}},
    ],
)
def test_fingerprint_tells_plans_apart(change: dict[str, Any]) -> None:
    before: dict[str, Any] = {"sizes": {"a": 40, "b": 50}}
    assert plan_of(**before).fingerprint == plan_of(**before).fingerprint
    assert plan_of(**{**before, **change}).fingerprint != plan_of(**before).fingerprint
    source = PlanSource("a", 40, "other contents")
    assert BatchPlan([source], seed=0, global_batch_size=8).fingerprint != plan_of({"a": 40}).fingerprint


def test_too_small_data_sets_are_named_with_their_sizes() -> None:
    assert plan_of({"large": 100, "small": 7, "tiny": 3}, batch=8).note == (
        "left out, having fewer than global_batch_size=8: data set small (7), tiny (3)"
    )
    with pytest.raises(InputError, match="no data set is large enough to train on: there is none"):
        BatchPlan([], seed=0, global_batch_size=8)
    plan_of({"just": 8}, batch=8).batch(0)


SMALL = {"large": 5_000, "own": 300, "tiny": 20, "small.1": 45, "small.2": 70, "same": 256}


def plan_of_small(how: SmallDatasets, sizes: dict[str, int] = SMALL, batch: int = 512, seed: int = 3) -> BatchPlan:
    sources = [PlanSource(name, size, f"print of {name}", shard_sizes=(size,)) for name, size in sizes.items()]
    return BatchPlan(sources, seed=seed, global_batch_size=batch, small_datasets=how)


def test_small_data_sets_by_their_own_size() -> None:
    plan = plan_of_small("own_size")
    assert plan.batch_sizes == {"large": 512, "own": 288, "same": 256, "small.1": 32, "small.2": 64}
    assert plan.note == "left out, having fewer than the 32 rows of a batch: data set tiny (20)"
    assert plan.shares == pytest.approx({name: SMALL[name] / (sum(SMALL.values()) - 20) for name in plan.shares})
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for step in range(3_000):
        name, batch = plan.batch(step)
        assert len(batch) == plan.batch_sizes[name] == len(np.unique(batch))
        rows[name].append(batch)
    for source in plan.sources:
        stream = np.concatenate(rows[source.name])
        assert plan.passes(3_000)[source.name] == len(stream) / source.num_samples
        passes = stream[: len(stream) // source.num_samples * source.num_samples].reshape(-1, source.num_samples)
        assert len(passes) > 2
        assert (np.sort(passes) == np.arange(source.num_samples)).all(), source.name
    taken = sum(len(plan.batch(step)[1]) for step in range(plan.steps_of_a_pass))
    assert taken == pytest.approx(plan.num_samples, rel=0.1)


@pytest.mark.parametrize("how", ["own_size", "join"])
def test_small_data_sets_are_planned_purely(how: SmallDatasets) -> None:
    plan = plan_of_small(how)
    other = pickle.loads(pickle.dumps(plan))
    assert other.fingerprint == plan.fingerprint
    for step in [2_000, *range(50)]:
        name, batch = plan.batch(step)
        assert (name, batch.tolist()) == (other.batch(step)[0], other.batch(step)[1].tolist())
        for processes in (1, 4, 32):
            parts = [GlobalBatchSampler(plan).share(step, rank, processes).rows for rank in range(processes)]
            assert np.concatenate(parts).tolist() == batch.tolist()


def test_small_data_sets_joined() -> None:
    plan = plan_of_small("join")
    assert plan.batch_sizes == {"joined-pairs": 512, "large": 512}
    assert [(one.name, one.num_samples) for one in plan.sources[0].members] == [
        ("own", 300), ("same", 256), ("small.1", 45), ("small.2", 70), ("tiny", 20),
    ]  # fmt: skip
    assert plan.note == ("joined-pairs holds data set own (300), same (256), small.1 (45), small.2 (70), tiny (20)")
    assert sum(plan.dataset_shares.values()) == pytest.approx(1)
    assert plan.dataset_shares["own"] == pytest.approx(300 / sum(SMALL.values()))
    assert plan_of_small("join", {"large": 600, "own": 300}).batch_sizes == {"large": 512, "own": 288}, "a single one"
    kinds = [PlanSource(f"{kind}{i}", 20, "", kind=kind) for i in range(2) for kind in ("pairs", "triplets")]
    both = BatchPlan(kinds, seed=0, global_batch_size=64, small_datasets="join")
    assert both.batch_sizes == {"joined-pairs": 32, "joined-triplets": 32}
    with pytest.raises(InputError, match="there is a data set called joined-pairs already; rename it"):
        plan_of_small("join", {"joined-pairs": 600, "a": 40, "b": 40})


def test_small_data_sets_left_out_or_refused() -> None:
    alone = plan_of({"large": 5_000}, batch=512, seed=3)
    assert plan_of_small("leave_out").fingerprint == alone.fingerprint, "as if they were not there"
    with pytest.raises(InputError, match=r"own \(300\), tiny \(20\).*global_batch_size<=20, small_datasets=own_size"):
        plan_of_small("refuse")
    with pytest.raises(InputError, match=r"no data set is large enough to train on: left out.*a \(31\)"):
        plan_of_small("own_size", {"a": 31})
    large = {"a": 600, "b": 512}
    fingerprints = {plan_of_small(how, large).fingerprint for how in get_args(SmallDatasets)}
    assert fingerprints == {plan_of(large, batch=512, seed=3).fingerprint}, "without small ones they are what they were"


@pytest.mark.parametrize(
    ("rows", "batch", "own"),
    [
        (300, 16_384, 288),
        (5_000, 16_384, 4_608),
        (63, 256, 32),
        (40, 100, 40),
        (40, 50, 40),
        (1_000, 6_144, 960),
        (40, 97, 40),
    ],
)
def test_own_sizes(rows: int, batch: int, own: int) -> None:
    assert own_batch(rows, batch) == own


def test_processes_that_cannot_share_a_small_batch() -> None:
    plan = plan_of_small("own_size")
    plan.check_processes(32)
    with pytest.raises(
        InputError, match=r"own .*batches of 288 .*among 64 processes: use a number of them that divides 32"
    ):
        plan.check_processes(64)
    with pytest.raises(InputError, match="global_batch_size=512 cannot be divided among 3"):
        plan.check_processes(3)


def test_a_billion_samples_cost_no_memory() -> None:
    """A list of the rows would take 8 GB; the plan may take 8 MB at any step, and any step is reached at once."""
    tracemalloc.start()
    try:
        sizes = {f"set-{number}": 5_000_000 for number in range(199)} | {"large": 5_000_000, "small": 2_000}
        plan = plan_of(sizes, batch=1024, weights={"small": 0.01})
        for step in (0, 1, 977_000, 10**9):
            plan.batch(step)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert plan.num_samples > 10**9
    assert peak < 8e6


GOLDEN_MANIFESTS = {
    "one": {"a": 30},
    "three": {"a": 20, "b": 100, "wörter.v2": 37},
    "large": {"a": 10**9, "b": 4_097, "c": 16},
}
GOLDEN_STEPS = [*range(12), 1_023, 1_024, 1_025, 50_000]
GOLDEN: dict[tuple[str, int], tuple[str, list[int], str]] = {
    ("one", 0): ("a", [10, 12, 4, 5, 27, 26, 13, 6], "81043ca690203f0c"),
    ("one", 1): ("a", [15, 24, 29, 10, 17, 7, 22, 25], "8769804381b5ca81"),
    ("one", 9223372036854775808): ("a", [8, 11, 14, 0, 19, 4, 27, 23], "38f760ed8d7c57dc"),
    ("three", 0): ("a", [10, 12, 4, 5, 13, 6, 14, 17], "d550acb65bfae7d5"),
    ("three", 1): ("wörter.v2", [3, 30, 31, 18, 13, 10, 5, 20], "a0b99cb6b6d397f5"),
    ("three", 9223372036854775808): ("b", [92, 6, 52, 48, 43, 9, 89, 17], "648e3d1ccf1ff8da"),
    ("large", 0): (
        "a",
        [465856135, 372699034, 597768257, 433950801, 668476440, 136869061, 669601808, 766623293],
        "0d20f615d8ff8c75",
    ),
    ("large", 1): (
        "a",
        [620231199, 690538258, 589845864, 239784609, 222906683, 591928553, 174862475, 136366321],
        "0674c703e6581e7d",
    ),
    ("large", 9223372036854775808): (
        "a",
        [401574946, 946175091, 684256005, 961535273, 962220062, 7298056, 228378070, 269168886],
        "98e1e9a691f7f1a9",
    ),
}


@pytest.mark.parametrize("manifest", GOLDEN_MANIFESTS)
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_golden_values(manifest: str, seed: int) -> None:
    """First batch, and sha256 of the batches of GOLDEN_STEPS. A change here breaks every run that is resumed: raise
    PLAN_VERSION with it."""
    assert golden(manifest, seed) == GOLDEN[manifest, seed]


def golden(manifest: str, seed: int) -> tuple[str, list[int], str]:
    plan = plan_of(GOLDEN_MANIFESTS[manifest], seed=seed, weights={"b": 0.5})
    digest = hashlib.sha256()
    for step in GOLDEN_STEPS:
        name, rows = plan.batch(step)
        digest.update(f"{step} {name} {rows.tolist()}\n".encode())
    name, rows = plan.batch(0)
    return name, rows.tolist(), digest.hexdigest()[:16]
