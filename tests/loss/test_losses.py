"""The losses against numbers worked out by hand, slow loops, whole tables of logits, and sentence-transformers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

import jemb.loss.objectives as objectives
from jemb.core.errors import InputError
from jemb.loss import Loss, equal_texts, info_nce, log_sum_exp, margin_loss
from tests.helpers.full_logits import DEFAULTS, PAPER, full_loss, on_one_rank, on_ranks, unit

# Two rows, cosines easy by hand: s(q, p) = [[1, 0.6], [0, 0.8]], s(q, n) = [[0, 0.8], [1, 0.6]],
# s(p, n) = [[0, 0.8], [0.8, 0.96]]; s(q, q) = 0, s(p, p) = 0.6 between the rows.
Q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
P = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
N = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
DIFFERENT = torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6])


def by_hand(*vectors: Tensor, **options: Any) -> Loss:
    return on_one_rank(vectors, DIFFERENT, **{"temperature": 1.0, **options})


def test_info_nce_by_hand() -> None:
    """-ln(e^1 / (e^1 + e^0.6)) = ln(1 + e^-0.4) = 0.5130153; -ln(e^0.8 / (e^0.8 + 1)) = ln(1 + e^-0.8) = 0.3711007."""
    own = torch.tensor([1.0, 0.8])
    others = log_sum_exp(Q, P, 1.0, own=0).values_B
    assert others.tolist() == pytest.approx([0.6, 0.0], abs=1e-6), "one candidate each"
    assert info_nce(own, [others]).item() == pytest.approx((0.5130153 + 0.3711007) / 2, abs=1e-6)
    # At temperature 0.5 the exponents double: ln(1 + e^-0.8), ln(1 + e^-1.6) = 0.1839009.
    others = log_sum_exp(Q, P, 0.5, own=0).values_B
    assert info_nce(2 * own, [others]).item() == pytest.approx((0.3711007 + 0.1839009) / 2, abs=1e-6)
    # The second row alone, its own candidate in column 1: the loss is a mean over rows, not a sum.
    others = log_sum_exp(Q[1:], P, 1.0, own=1).values_B
    assert info_nce(own[1:], [others]).item() == pytest.approx(0.3711007, abs=1e-6)
    # No other candidate: what is left is certain; twice the own one is ln 2.
    assert info_nce(own, []).item() == info_nce(own, [torch.full((2,), -torch.inf)]).item() == 0
    assert info_nce(own, [], times=2).item() == pytest.approx(math.log(2))


def test_pairs_by_hand() -> None:
    """Queries: 0.5130153, 0.3711007. Positives over columns: ln(1 + e^-1) = 0.3132617, ln(1 + e^-0.2) = 0.5981389.
    Means 0.4420580 and 0.4557003, sum 0.8977583."""
    loss = by_hand(Q, P)
    assert loss.total.item() == pytest.approx(0.8977583, abs=1e-6)
    assert {name: value.item() for name, value in loss.terms.items()} == pytest.approx(
        {"query_to_positive": 0.4420580, "positive_to_query": 0.4557003}, abs=1e-6
    )
    assert (loss.candidates, loss.hidden) == (1, 0)


def test_triplets_by_hand() -> None:
    """First term, over both positives and both negatives:
    row 1: ln(1 + e^-0.4 + e^-1 + e^-0.2) = ln(2.8569302) = 1.0497475
    row 2: ln(e^-0.8 + 1 + e^0.2 + e^-0.2) = ln(3.4894625) = 1.2497477
    Second term as for pairs: 0.4557003. Margin 0.25: ReLU(0 - 1 + 0.25) = 0, ReLU(0.6 - 0.8 + 0.25) = 0.05; mean 0.025.
    """
    loss = by_hand(Q, P, N, margin=0.25)
    assert math.log(1 + math.exp(-0.4) + math.exp(-1) + math.exp(-0.2)) == pytest.approx(1.0497475, abs=1e-6)
    assert math.log(math.exp(-0.8) + 1 + math.exp(0.2) + math.exp(-0.2)) == pytest.approx(1.2497477, abs=1e-6)
    assert loss.total.item() == pytest.approx((1.0497475 + 1.2497477) / 2 + 0.4557003 + 0.025, abs=1e-6)
    assert list(loss.terms) == ["query_to_positive", "positive_to_query", "margin"]
    assert (loss.candidates, loss.hidden) == (3, 0)


def test_weights_and_the_margin_of_the_positive_by_hand() -> None:
    """Margin 0.25 from the positive: ReLU(0 - 1 + 0.25) = 0, ReLU(0.96 - 0.8 + 0.25) = 0.41; mean 0.205."""
    weights = {"query_to_positive": 0.5, "positive_to_query": 0.0, "margin": 2.0, "positive_margin": 3.0}
    loss = by_hand(Q, P, N, margin=0.25, loss_weights=weights)
    first = (1.0497475 + 1.2497477) / 2
    assert loss.total.item() == pytest.approx(0.5 * first + 2 * 0.025 + 3 * 0.205, abs=1e-6)
    assert {name: value.item() for name, value in loss.terms.items()} == pytest.approx(
        {"query_to_positive": first, "margin": 0.025, "positive_margin": 0.205}, abs=1e-6
    )
    alone = by_hand(Q, P, N, margin=0.25, loss_weights={"positive_margin": 1.0})
    assert (alone.total.item(), alone.candidates) == (pytest.approx(0.205, abs=1e-6), 1)


def test_extra_negatives_by_hand() -> None:
    """Queries, with the other query (s = 0): ln(1 + e^-0.4 + e^-1), ln(1 + e^-0.8 + e^-0.8); positives, with the other
    positive (s = 0.6): ln(1 + e^-1 + e^-0.4), ln(1 + e^-0.2 + e^-0.2); and with all negatives as well:
    + e^(0 - 1) + e^(0.8 - 1), + e^(0.8 - 0.8) + e^(0.96 - 0.8)."""
    e = math.exp
    queries = (math.log(1 + e(-0.4) + e(-1)) + math.log(1 + 2 * e(-0.8))) / 2
    positives = (math.log(1 + e(-1) + e(-0.4)) + math.log(1 + 2 * e(-0.2))) / 2
    loss = by_hand(Q, P, extra_negatives=["query_query", "positive_positive"])
    assert loss.total.item() == pytest.approx(queries + positives, abs=1e-6)
    assert loss.candidates == 2
    negated = (math.log(1 + e(-1) + e(-1) + e(-0.2)) + math.log(1 + e(-0.2) + 1 + e(0.16))) / 2
    loss = by_hand(Q, P, N, extra_negatives=["positive_negative"], loss_weights={"positive_to_query": 1.0})
    assert loss.total.item() == pytest.approx(negated, abs=1e-6)
    # One softmax: the own pair twice, 0.6 and 0 | 0 and 0.8 from queries and positives each way.
    joint = (math.log(2 + e(-0.4) + e(-1)) + math.log(2 + e(-0.8) + e(-0.2))) / 2
    assert by_hand(Q, P, loss_weights={"joint": 1.0}).total.item() == pytest.approx(joint, abs=1e-6)


def test_margin_by_hand() -> None:
    """Two negatives a row: ReLU(s(q,n) - s(q,p) + 0.1) = 0, 0 | 0.3, 0 -> mean over four 0.075."""
    n = torch.stack([torch.stack([N[0], P[1]]), torch.stack([Q[1], Q[0]])])
    assert margin_loss(Q, P, n, 0.1).item() == pytest.approx(0.075, abs=1e-6)
    assert margin_loss(Q, P, N[:, None], 0.0).item() == 0


def test_a_row_without_negatives_by_hand() -> None:
    """In the second its positive stands for one, which counts 0. The first: ReLU(0 - 1 + 1.25) / 2."""
    hashes = [torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 4])]
    weights = {"margin": 1.0, "positive_margin": 1.0}
    loss = on_one_rank([Q, P, torch.stack([N[0], P[1]])], hashes, margin=1.25, loss_weights=weights)
    assert {name: value.item() for name, value in loss.terms.items()} == pytest.approx(
        {"margin": 0.125, "positive_margin": 0.125}, abs=1e-6
    )


def test_similar_candidates_by_hand() -> None:
    """s(q1, .) of the others: 0.6, 0, 0.8 against 1; s(q2, .): 0, 1, 0.6 against 0.8; s(p2, q1) = 0.6. Above by 0.1:
    n1 for the second query alone. What its row keeps: ln(e^-0.8 + 1 + e^-0.2)."""
    loss = by_hand(Q, P, N, mask_margin=0.1, loss_weights={"query_to_positive": 1.0})
    second = math.log(math.exp(-0.8) + 1 + math.exp(-0.2))
    assert loss.total.item() == pytest.approx((1.0497475 + second) / 2, abs=1e-6)
    assert (loss.candidates, loss.hidden) == (3, 1)
    assert by_hand(Q, P, N, mask_margin=0.21).hidden == 0
    assert by_hand(Q, Q[[0, 0]], mask_margin=0.0).hidden == 0, "as similar as the own one, not more"


def test_equal_texts_by_hand() -> None:
    """Rows: (a, x), (a, y), (b, x), (c, d), (x, e). Row 0 keeps d alone: row 1 has its query, row 2 its positive, and
    the query of row 4 is its positive."""
    a, b, c, d, e, x, y = range(7)
    mine = torch.tensor([[a, x], [a, y], [b, x], [c, d], [x, e]])
    found = equal_texts(mine, mine, own=0)
    assert found is not None
    assert found.positions == [0, 1, 2, 4], "nobody shares a text with row 3"
    table = found.in_tile(slice(0, 5), slice(0, 5), own=0)
    assert table is not None
    assert table[0].tolist() == [0, 1, 2, 4]
    assert table[1].tolist() == [
        [False, True, True, True],
        [True, False, False, False],
        [True, False, False, True],
        [False, False, False, False],
        [True, False, True, False],
    ]
    corner = found.in_tile(slice(2, 4), slice(3, 5), own=0)
    assert corner is not None
    assert (corner[0].tolist(), corner[1].tolist()) == ([1], [[True], [False]])
    assert found.in_tile(slice(0, 5), slice(3, 4), own=0) is None
    negatives = equal_texts(mine, torch.tensor([[x], [a], [y], [9], [e]]))
    assert negatives is not None
    table = negatives.in_tile(slice(0, 5), slice(0, 5), own=None)
    assert table is not None
    assert table[0].tolist() == [0, 1, 2, 4]
    assert table[1].tolist() == [
        [True, True, False, False],
        [False, True, True, False],
        [True, False, False, False],
        [False, False, False, False],
        [True, False, False, True],
    ]
    assert equal_texts(mine, torch.tensor([[9], [10]])) is None
    assert equal_texts(torch.tensor([[a, a], [b, c]]), torch.tensor([[a, a], [b, c]]), own=0) is None


def test_a_rows_own_candidate_is_never_hidden() -> None:
    """All texts equal: every other candidate is hidden, so the contrast is empty, the loss 0 and so is its gradient."""
    generator = torch.Generator().manual_seed(1)
    same = [torch.zeros(3, dtype=torch.int64)] * 3
    vectors = [unit(generator, 3, 4).requires_grad_() for _ in range(3)]
    loss = on_one_rank(vectors[:2], same, extra_negatives=["query_query"])
    assert (loss.total.item(), loss.hidden) == (0, 6 + 6)
    loss.total.backward()
    assert vectors[0].grad is not None
    assert torch.count_nonzero(vectors[0].grad) == 0
    loss = on_one_rank(vectors, same, margin=0.0)
    assert loss.hidden == 6 + 9
    assert math.isfinite(loss.total.item())
    # The least possible margin hides whatever is above the own similarity, but not that.
    loss = on_one_rank(vectors, DIFFERENT_THREE, mask_margin=0.0)
    assert math.isfinite(loss.total.item())
    assert loss.hidden < 6 + 9


DIFFERENT_THREE = [torch.arange(3) + 10 * i for i in range(3)]


def slow_loss(
    q: list[list[float]],
    p: list[list[float]],
    n: list[list[float]],
    texts: Sequence[Sequence[int]],
    temperature: float,
    margin: float,
    mask: bool,
) -> float:
    """L_pairs, or L_triplets where there are negatives, term by term as the paper writes them, in Python's floats."""
    qt, pt, nt = texts
    size, count = len(q), len(n) // len(q)

    def s(x: Sequence[float], y: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(x, y, strict=True))

    def stays(i: int, j: int) -> bool:
        return i == j or not mask or not {qt[i], pt[i]} & {qt[j], pt[j]}

    total = 0.0
    for i in range(size):
        down = sum(math.exp(s(q[i], p[j]) / temperature) for j in range(size) if stays(i, j))
        down += sum(
            math.exp(s(q[i], x) / temperature)
            for x, t in zip(n, nt, strict=True)
            if not mask or t not in (qt[i], pt[i])
        )
        back = sum(math.exp(s(p[i], q[j]) / temperature) for j in range(size) if stays(i, j))
        own = math.exp(s(q[i], p[i]) / temperature)
        total += (-math.log(own / down) - math.log(own / back)) / size
        for k in range(count):
            if mask and nt[i * count + k] in (qt[i], pt[i]):
                continue
            total += max(0.0, s(q[i], n[i * count + k]) - s(q[i], p[i]) + margin) / (size * count)
    return total


def flat_loss(x: Sequence[float], sizes: Sequence[int], width: int, *options: object) -> float:
    vectors = [list(x[start : start + width]) for start in range(0, len(x), width)]
    ends = list(itertools.accumulate(sizes, initial=0))
    return slow_loss(*(vectors[a:b] for a, b in itertools.pairwise(ends)), *options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_values_and_gradients_are_the_slow_loops(count: int, mask: bool, temperature: float) -> None:
    """Gradients by central differences of the slow loop, in double precision."""
    draw = random.Random(f"{count} {mask} {temperature}")
    generator = torch.Generator().manual_seed(draw.randrange(99))
    size, width, margin = 5, 4, 0.3
    sizes = (size, size, size * count)
    start = torch.cat([unit(generator, amount, width) for amount in sizes])
    texts = [[draw.randrange(8) for _ in range(amount)] for amount in sizes]  # few texts, so many are equal
    x = start.float().requires_grad_()
    parts = [part for part in x.split(sizes) if len(part)]
    hashes = [torch.tensor(text) for text in texts]
    loss = on_one_rank(parts, hashes, temperature=temperature, margin=margin, mask_equal_texts=mask).total
    flat = start.flatten().tolist()
    options = sizes, width, texts, temperature, margin, mask
    assert loss.item() == pytest.approx(flat_loss(flat, *options), rel=1e-5)
    loss.backward()
    assert x.grad is not None
    step = 1e-6
    for i in range(len(flat)):
        up, down = list(flat), list(flat)
        up[i] += step
        down[i] -= step
        slope = (flat_loss(up, *options) - flat_loss(down, *options)) / (2 * step)
        assert x.grad.flatten()[i].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def make_rows(size: int, count: int, *, width: int = 6, texts: int = 24, seed: int = 0) -> tuple[list[Tensor], ...]:
    """(leaves: queries, positives and, if any, negatives in float64; their hashes, of which some are equal)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (size, size, size * count) if count else (size, size)
    vectors = [unit(generator, amount, width).requires_grad_() for amount in sizes]
    return vectors, [torch.randint(texts, (amount,), generator=generator) for amount in sizes]


ALL_TERMS = {"query_to_positive": 0.7, "positive_to_query": 1.3, "joint": 0.5, "margin": 1.1, "positive_margin": 0.9}
EVERYTHING: dict[str, Any] = {
    "temperature": 0.1,
    "margin": 0.3,
    "loss_weights": ALL_TERMS,
    "extra_negatives": ["query_query", "positive_positive", "positive_negative"],
    "mask_margin": 0.1,
    "matryoshka_widths": [2, 4],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "no mask": {"mask_equal_texts": False},
    "similar ones hidden": {"mask_margin": 0.2},
    "GTE's": {"loss_weights": {"joint": 1.0}, "extra_negatives": ["query_query", "positive_positive"]},
    "negatives away from positives": {
        "loss_weights": {**PAPER, "positive_margin": 1.0},
        "extra_negatives": ["positive_negative"],
    },
    "widths": {"matryoshka_widths": [3, 1, 6]},
    "everything": EVERYTHING,
}


def deviation(options: Mapping[str, Any], count: int, world_size: int, **wrong: Any) -> tuple[float, float, int]:
    """Of the mean over ranks from the whole table's: (loss, gradients, hidden candidates), the first two relative."""
    vectors, hashes = make_rows(8, count)
    expected, hidden = full_loss(vectors, hashes, **options)
    losses = on_ranks(vectors, hashes, world_size, **{**options, **wrong})
    mean = torch.stack([loss.total for loss in losses]).mean()
    grads, wanted = (torch.cat([g.flatten() for g in torch.autograd.grad(x, vectors)]) for x in (mean, expected))
    found = sum(int(loss.hidden) for loss in losses)
    return abs(mean.item() / expected.item() - 1), float((grads - wanted).norm() / wanted.norm()), found - hidden


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ranks_average_to_the_whole_table(options: dict[str, Any], count: int, world_size: int) -> None:
    """Values, gradients of all vectors and hidden candidates: each rank's rows against all, averaged over ranks."""
    loss, grads, hidden = deviation(options, count, world_size)
    assert loss < 1e-12
    assert grads < 1e-11
    assert hidden == 0


def test_the_masks_have_something_to_hide() -> None:
    vectors, hashes = make_rows(8, 3)
    hidden = {name: int(on_one_rank(vectors, hashes, **options).hidden) for name, options in OPTIONS.items()}
    assert hidden["no mask"] == 0 < hidden["the paper's"] < hidden["similar ones hidden"] < 8 * 31


@settings(max_examples=60)
@given(data=st.data())
def test_any_batch_in_tiles(data: st.DataObject) -> None:
    """Any number of rows, negatives, texts and ranks, tiles far smaller than the batch, everything switched on."""
    world_size, per_rank, count = (data.draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 5), (0, 3)))
    vectors, hashes = make_rows(
        world_size * per_rank, count, texts=data.draw(st.integers(1, 60)), seed=data.draw(st.integers(0, 99))
    )
    options = data.draw(st.sampled_from(list(OPTIONS.values())))
    with pytest.MonkeyPatch.context() as patch:
        tile = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
        patch.setattr("jemb.loss.tiles.TILE", {"cpu": tile})
        losses = on_ranks(vectors, hashes, world_size, **options)
    expected, hidden = full_loss(vectors, hashes, **options)
    mean = torch.stack([loss.total for loss in losses]).mean()
    torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-11)
    grads, wanted = (torch.autograd.grad(x, vectors, allow_unused=True) for x in (mean, expected))
    torch.testing.assert_close(grads, wanted, rtol=1e-9, atol=1e-9)
    assert sum(int(loss.hidden) for loss in losses) == hidden


def _replaced(**wrong: Any) -> Callable[..., Any]:
    """`log_sum_exp` with some arguments always as given here."""

    def faulty(q: Tensor, c: Tensor, temperature: float, **options: Any) -> Any:
        return log_sum_exp(q, c, wrong.get("temperature", temperature), **{**options, **_only_options(wrong)})

    return faulty


def _only_options(wrong: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wrong.items() if name != "temperature"}


def _last_negative_dropped(q: Tensor, c: Tensor, temperature: float, **options: Any) -> Any:
    kept = c if options["own"] is not None else c[:-1]
    return log_sum_exp(q, kept, temperature, **{**options, "equal": None if kept is not c else options["equal"]})


def _candidates_detached(q: Tensor, c: Tensor, temperature: float, **options: Any) -> Any:
    return log_sum_exp(q, c.detach(), temperature, **options)


def _rows_detached(q: Tensor, c: Tensor, temperature: float, **options: Any) -> Any:
    return log_sum_exp(q.detach(), c, temperature, **options)


FAULTS: dict[str, tuple[str, Any]] = {
    "temperature dropped": ("log_sum_exp", _replaced(temperature=1.0)),
    "a negative dropped": ("log_sum_exp", _last_negative_dropped),
    "candidates detached": ("log_sum_exp", _candidates_detached),
    "rows detached": ("log_sum_exp", _rows_detached),
    "own candidate counted twice": ("log_sum_exp", _replaced(own=None)),
    "equal texts not hidden": ("log_sum_exp", _replaced(equal=None)),
    "margins of the first negative": (
        "margin_loss",
        lambda q, p, n, margin, anchor, none: margin_loss(q, p, n[:, :1], margin, anchor),
    ),
    "margins of what is no negative": (
        "margin_loss",
        lambda q, p, n, margin, anchor, none: margin_loss(q, p, n, margin, anchor),
    ),
}


MASKED = {"equal texts not hidden", "margins of what is no negative"}
"""Faults that show where texts are equal; the others show without that."""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fault in, `test_ranks_average_to_the_whole_table` would fail, and by far."""
    options = {"temperature": 0.3, "margin": 0.5, "mask_equal_texts": fault in MASKED}
    assert deviation(options, 3, 2)[1] < 1e-11
    name, wrong = FAULTS[fault]
    monkeypatch.setattr(objectives, name, wrong)
    assert deviation(options, 3, 2)[1] > 0.01


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("offset", [0, 2])
def test_a_wrong_offset_is_seen(offset: int, count: int, mask: bool) -> None:
    """Every rank at the place of one: right for one of two, and still far off."""
    loss, grads, _ = deviation({"mask_equal_texts": mask}, count, 2, offset=offset)
    assert loss > 0.05
    assert grads > 0.05


def test_ranks_without_the_mean_are_seen() -> None:
    vectors, hashes = make_rows(8, 1)
    expected, _ = full_loss(vectors, hashes)
    total = torch.stack([loss.total for loss in on_ranks(vectors, hashes, 2)]).sum()
    assert total.item() / expected.item() == pytest.approx(2)


def test_the_order_of_the_batch_does_not_matter() -> None:
    size, count = 6, 2
    vectors, hashes = make_rows(size, count, texts=7)
    found = []
    for seed in range(4):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        of_negatives = (order[:, None] * count + torch.arange(count)).flatten()
        places = order, order, of_negatives
        moved = [v[at].float() for v, at in zip(vectors, places, strict=True)]
        moved_hashes = [h[at] for h, at in zip(hashes, places, strict=True)]
        found.append(on_one_rank(moved, moved_hashes, **EVERYTHING).total.item())
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


def test_the_same_again_to_the_last_bit() -> None:
    def once() -> list[Tensor]:
        vectors, hashes = make_rows(700, 1, texts=2000, width=16)
        vectors = [v.detach().float().requires_grad_() for v in vectors]
        loss = on_one_rank(vectors, hashes, mask_margin=0.2).total
        return [loss, *torch.autograd.grad(loss, vectors)]

    assert all(map(torch.equal, once(), once()))


def st_loss(cached: bool, **options: Any) -> Callable[[Sequence[Tensor]], Tensor]:
    """sentence-transformers' loss of columns of vectors, which it scales to unit length."""
    model: Any = torch.nn.Sequential(torch.nn.Identity())
    if cached:
        by_rows = CachedMultipleNegativesRankingLoss(model, mini_batch_size=5, **options)
        return lambda columns: by_rows.calculate_loss([list(column.split(7)) for column in columns])
    plain = MultipleNegativesRankingLoss(model, **options)
    return lambda columns: plain.compute_loss_from_embeddings(list(columns), torch.empty(0))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_against_sentence_transformers(count: int, cached: bool) -> None:
    """Their loss with both directions averages what ours adds up; it knows no margin term."""
    directions, size, scale = ("query_to_doc", "doc_to_query"), 16, 20.0
    theirs = st_loss(cached, scale=scale, directions=directions, partition_mode="per_direction")
    raw = (3 * unit(torch.Generator().manual_seed(count), size * (2 + count), 12)).float().requires_grad_()
    expected = 2 * theirs(raw.split(size))
    weights = {"query_to_positive": 1.0, "positive_to_query": 1.0}
    _compare(raw, expected, size, count, temperature=1 / scale, loss_weights=weights)


@pytest.mark.parametrize("cached", [False, True])
def test_gte_against_sentence_transformers(cached: bool) -> None:
    """What it documents as the loss of GTE."""
    directions, size = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"), 16
    theirs = st_loss(cached, scale=20.0, directions=directions, partition_mode="joint")
    raw = (3 * unit(torch.Generator().manual_seed(7), size * 2, 12)).float().requires_grad_()
    extra = ["query_query", "positive_positive"]
    _compare(raw, theirs(raw.split(size)), size, 0, loss_weights={"joint": 1.0}, extra_negatives=extra)


def _compare(raw: Tensor, expected: Tensor, size: int, count: int, **options: Any) -> None:
    """Value and gradient of ours, on the same raw vectors, to 1e-5."""
    q, p, *negatives = torch.nn.functional.normalize(raw, dim=1).split(size)
    vectors = [q, p, *([torch.stack(negatives, dim=1).flatten(0, 1)] if count else [])]
    hashes = [torch.arange(len(v)) + 1000 * i for i, v in enumerate(vectors)]
    loss = on_one_rank(vectors, hashes, **options).total
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, others = (torch.autograd.grad(value, raw)[0] for value in (loss, expected))
    assert float((mine - others).norm() / others.norm()) < 1e-5
    torch.testing.assert_close(mine, others, rtol=1e-5, atol=1e-5 * float(others.abs().max()))


def test_bf16_vectors_are_compared_in_fp32() -> None:
    generator = torch.Generator().manual_seed(8)
    q, p = (unit(generator, 6, 32).bfloat16() for _ in range(2))
    hashes = [torch.arange(6), torch.arange(6, 12)]
    loss = on_one_rank([q, p], hashes).total
    assert loss.dtype == torch.float32
    expected, _ = full_loss([q.double(), p.double()], hashes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = on_one_rank([q, p], hashes, matryoshka_widths=[8]).terms
    assert inside["query_to_positive"] + inside["positive_to_query"] == pytest.approx(loss.item(), rel=1e-6)
    # bf16 vectors are not quite of unit length, which the whole table sees to.
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="matryoshka_widths: got 3; a vector of this model has 2 numbers"):
        by_hand(Q, P, matryoshka_widths=[1, 3])
    with pytest.raises(ValueError, match="term 'query_to_postive': there are joint, margin, positive_margin"):
        by_hand(Q, P, loss_weights={"query_to_postive": 1.0})
    with pytest.raises(ValueError, match="extra negatives 'queries'"):
        by_hand(Q, P, extra_negatives=["queries"])
    with pytest.raises(ValueError, match="no term to compute"):
        by_hand(Q, P, loss_weights={"margin": 1.0})


def test_values_of_each_width() -> None:
    vectors, hashes = make_rows(8, 1)
    loss = on_one_rank(vectors, hashes, matryoshka_widths=[4, 6, 4])
    assert list(loss.terms) == [*PAPER, *(f"{name}@4" for name in PAPER)]
    assert float(sum(loss.terms.values())) == pytest.approx(loss.total.item())
    alone = on_one_rank([torch.nn.functional.normalize(v[:, :4], dim=1) for v in vectors], hashes)
    assert {f"{name}@4": value.item() for name, value in alone.terms.items()} == pytest.approx(
        {name: value.item() for name, value in loss.terms.items() if name.endswith("@4")}
    )
    assert loss.hidden == on_one_rank(vectors, hashes).hidden
    assert set(DEFAULTS["loss_weights"]) == set(PAPER)
