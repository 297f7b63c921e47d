"""The losses against numbers worked out by hand, a slow loop, and sentence-transformers' own implementation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor

from jemb.loss import Rows, hidden_candidates, info_nce, margin_loss, pair_loss, triplet_loss

# Two rows, cosines easy by hand: s(q, p) = [[1, 0.6], [0, 0.8]], s(q, n) = [[0, 0.8], [1, 0.6]].
Q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
P = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
N = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
DIFFERENT = torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6])


def rows(vectors: Tensor, hashes: Tensor) -> Rows:
    """Rows of a single process."""
    return Rows(local_BD=vectors, all_ND=vectors, hash_B=hashes, hash_N=hashes)


def pairs(q: Tensor, p: Tensor, hashes: Sequence[Tensor], temperature: float, mask: bool = True) -> tuple[Tensor, int]:
    query, positive = rows(q, hashes[0]), rows(p, hashes[1])
    loss, hidden = pair_loss(query, positive, offset=0, temperature=temperature, mask_equal_texts=mask)
    return loss, int(hidden)


def triplets(
    q: Tensor, p: Tensor, n: Tensor, hashes: Sequence[Tensor], temperature: float, margin: float, mask: bool = True
) -> tuple[Tensor, int]:
    loss, hidden = triplet_loss(
        *(rows(v, h) for v, h in zip((q, p, n), hashes, strict=True)),
        offset=0,
        temperature=temperature,
        margin=margin,
        mask_equal_texts=mask,
    )
    return loss, int(hidden)


def test_info_nce_by_hand() -> None:
    """-ln(e^1 / (e^1 + e^0.6)) = ln(1 + e^-0.4) = 0.5130153; -ln(e^0.8 / (e^0.8 + 1)) = ln(1 + e^-0.8) = 0.3711007."""
    loss = info_nce(Q, P, torch.tensor([0, 1]), 1.0)
    assert loss.item() == pytest.approx((0.5130153 + 0.3711007) / 2, abs=1e-6)
    # At temperature 0.5 the exponents double: ln(1 + e^-0.8), ln(1 + e^-1.6) = 0.1839009.
    assert info_nce(Q, P, torch.tensor([0, 1]), 0.5).item() == pytest.approx((0.3711007 + 0.1839009) / 2, abs=1e-6)
    # The second row alone, its own candidate in column 1: the loss is a mean over rows, not a sum.
    assert info_nce(Q[1:], P, torch.tensor([1]), 1.0).item() == pytest.approx(0.3711007, abs=1e-6)
    # One candidate of each row hidden: what is left is certain.
    hide = torch.tensor([[False, True], [True, False]])
    assert info_nce(Q, P, torch.tensor([0, 1]), 1.0, hide).item() == 0


def test_pair_loss_by_hand() -> None:
    """Queries: 0.5130153, 0.3711007. Positives over columns: ln(1 + e^-1) = 0.3132617, ln(1 + e^-0.2) = 0.5981389.
    Sum of the two means: 0.4420580 + 0.4557003 = 0.8977583."""
    loss, hidden = pairs(Q, P, DIFFERENT, 1.0)
    assert loss.item() == pytest.approx(0.8977583, abs=1e-6)
    assert hidden == 0


def test_triplet_loss_by_hand() -> None:
    """First term, over both positives and both negatives:
    row 1: ln(1 + e^-0.4 + e^-1 + e^-0.2) = ln(2.8569302) = 1.0497475
    row 2: ln(e^-0.8 + 1 + e^0.2 + e^-0.2) = ln(3.4894625) = 1.2497477
    Second term as for pairs: 0.4557003. Margin 0.25: ReLU(0 - 1 + 0.25) = 0, ReLU(0.6 - 0.8 + 0.25) = 0.05; mean 0.025.
    """
    loss, hidden = triplets(Q, P, N, DIFFERENT, 1.0, 0.25)
    assert math.log(1 + math.exp(-0.4) + math.exp(-1) + math.exp(-0.2)) == pytest.approx(1.0497475, abs=1e-6)
    assert math.log(math.exp(-0.8) + 1 + math.exp(0.2) + math.exp(-0.2)) == pytest.approx(1.2497477, abs=1e-6)
    assert loss.item() == pytest.approx((1.0497475 + 1.2497477) / 2 + 0.4557003 + 0.025, abs=1e-6)
    assert hidden == 0


def test_margin_by_hand() -> None:
    """Two negatives a row: ReLU(s(q,n) - s(q,p) + 0.1) = 0, 0 | 0.3, 0 -> mean over four 0.075."""
    n = torch.stack([torch.stack([N[0], P[1]]), torch.stack([Q[1], Q[0]])])
    assert margin_loss(Q, P, n, 0.1).item() == pytest.approx(0.075, abs=1e-6)
    assert margin_loss(Q, P, N[:, None], 0.0).item() == 0


def test_masks_by_hand() -> None:
    """Rows: (a, x), (a, y), (b, x), (c, d), (x, e). Row 0 keeps d alone: row 1 has its query, row 2 its positive, and
    the query of row 4 is its positive."""
    a, b, c, d, e, x, y = range(7)
    query, positive = torch.tensor([a, a, b, c, x]), torch.tensor([x, y, x, d, e])
    own = torch.arange(5)
    hide = hidden_candidates(query, positive, positive, own, partner_N=query)
    assert hide.tolist() == [
        [False, True, True, False, True],
        [True, False, False, False, False],
        [True, False, False, False, True],
        [False, False, False, False, False],
        [True, False, True, False, False],
    ]
    back = hidden_candidates(query, positive, query, own, partner_N=positive)
    assert torch.equal(back, hide), "the same pairs of rows in the other direction"
    negatives = torch.tensor([x, a, y, 9, e])
    assert hidden_candidates(query, positive, negatives).tolist() == [
        [True, True, False, False, False],
        [False, True, True, False, False],
        [True, False, False, False, False],
        [False, False, False, False, False],
        [True, False, False, False, True],
    ]


def test_a_hidden_target_is_refused() -> None:
    with pytest.raises(ValueError, match="own candidate is hidden"):
        info_nce(Q, P, torch.tensor([0, 1]), 1.0, torch.tensor([[False, False], [False, True]]))


def test_a_rows_own_candidate_is_never_hidden() -> None:
    """All texts equal: every other candidate is hidden, so the contrast is empty and the loss 0, not infinite."""
    same = torch.zeros(3, dtype=torch.int64)
    vectors = unit(random.Random(1), 3, 4)
    loss, hidden = pairs(vectors, vectors.flip(0), [same] * 2, 0.05)
    assert loss.item() == 0
    assert hidden == 6
    loss, hidden = triplets(vectors, vectors.flip(0), vectors, [same] * 3, 0.05, 0.0)
    assert hidden == 6 + 9
    assert math.isfinite(loss.item())


def unit(draw: random.Random, count: int, width: int) -> Tensor:
    values = torch.tensor([[draw.gauss(0, 1) for _ in range(width)] for _ in range(count)], dtype=torch.float64)
    return values / values.norm(dim=1, keepdim=True)


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
    size, width, margin = 5, 4, 0.3
    sizes = (size, size, size * count)
    start = torch.cat([unit(draw, amount, width) for amount in sizes if amount])
    texts = [[draw.randrange(8) for _ in range(amount)] for amount in sizes]  # few texts, so many are equal
    options = sizes, width, texts, temperature, margin, mask
    x = start.float().requires_grad_()
    parts = x.split([amount for amount in sizes if amount])
    hashes = [torch.tensor(text) for text in texts]
    if count:
        loss, _ = triplets(parts[0], parts[1], parts[2], hashes, temperature, margin, mask)
    else:
        loss, _ = pairs(parts[0], parts[1], hashes, temperature, mask)
    flat = start.flatten().tolist()
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


def test_hidden_candidates_are_counted() -> None:
    draw = random.Random(3)
    texts = [torch.tensor([draw.randrange(6) for _ in range(size)]) for size in (8, 8, 16)]
    q, p, n = (unit(draw, size, 4) for size in (8, 8, 16))
    mine = [{int(a), int(b)} for a, b in zip(texts[0], texts[1], strict=True)]
    among_positives = sum(bool(mine[i] & mine[j]) for i in range(8) for j in range(8) if i != j)
    among_negatives = sum(int(t) in mine[i] for i in range(8) for t in texts[2])
    assert pairs(q, p, texts, 0.1)[1] == among_positives
    assert triplets(q, p, n, texts, 0.1, 0.1)[1] == among_positives + among_negatives
    assert pairs(q, p, texts, 0.1, mask=False)[1] == 0


def test_the_order_of_the_batch_does_not_matter() -> None:
    draw = random.Random(5)
    size, count = 6, 2
    q, p, n = unit(draw, size, 8), unit(draw, size, 8), unit(draw, size * count, 8).view(size, count, 8)
    hashes = [torch.tensor([draw.randrange(7) for _ in range(size)]) for _ in range(2)]
    negative_hash = torch.tensor([draw.randrange(7) for _ in range(size * count)]).view(size, count)
    found = []
    for seed in range(4):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        moved = [hashes[0][order], hashes[1][order], negative_hash[order].flatten()]
        found.append(triplets(q[order], p[order], n[order].flatten(0, 1), moved, 0.05, 0.05)[0].item())
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


def test_ranks_average_to_the_whole_batch() -> None:
    """Each rank's loss of its own rows against all candidates, averaged: the loss of one process."""
    draw = random.Random(6)
    size, count, world_size = 6, 2, 3
    q, p, n = unit(draw, size, 8), unit(draw, size, 8), unit(draw, size * count, 8)
    hashes = [torch.tensor([draw.randrange(7) for _ in range(amount)]) for amount in (size, size, size * count)]

    def of_rank(rank: int, objective: Callable[..., tuple[Tensor, Tensor]], **options: float) -> Tensor:
        parts = []
        for vectors, hashed in zip((q, p, n), hashes, strict=True):
            amount = len(vectors) // world_size
            mine = slice(rank * amount, (rank + 1) * amount)
            parts.append(Rows(vectors[mine], vectors, hashed[mine], hashed))
        if objective is pair_loss:
            parts = parts[:2]
        return objective(*parts, offset=rank * 2, temperature=0.05, mask_equal_texts=True, **options)[0]

    split = sum(of_rank(rank, pair_loss) for rank in range(world_size)) / world_size
    assert float(split) == pytest.approx(pairs(q, p, hashes, 0.05)[0].item(), rel=1e-6)
    split = sum(of_rank(rank, triplet_loss, margin=0.1) for rank in range(world_size)) / world_size
    assert float(split) == pytest.approx(triplets(q, p, n, hashes, 0.05, 0.1)[0].item(), rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_against_sentence_transformers(count: int) -> None:
    """Their loss with both directions averages what ours adds up; it knows no margin term."""
    draw = random.Random(f"st {count}")
    size, groups = 16, 2 + count
    raw = (3 * unit(draw, size * groups, 12)).float().requires_grad_()
    theirs = MultipleNegativesRankingLoss(
        torch.nn.Identity(),  # type: ignore[arg-type]
        scale=1 / 0.05,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    expected = 2 * theirs.compute_loss_from_embeddings(list(raw.split(size)), torch.empty(0))  # scales to unit length
    q, p, *negatives = torch.nn.functional.normalize(raw, dim=1).split(size)
    hashes = [torch.arange(start, start + size * amount) for start, amount in ((0, 1), (100, 1), (1000, count))]
    if count:
        n = torch.stack(negatives, dim=1)
        loss = triplets(q, p, n.flatten(0, 1), hashes, 0.05, 0.2)[0] - margin_loss(q, p, n, 0.2)
    else:
        loss = pairs(q, p, hashes, 0.05)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, others = (torch.autograd.grad(value, raw)[0] for value in (loss, expected))
    torch.testing.assert_close(mine, others, rtol=1e-4, atol=1e-6)


def test_bf16_vectors_are_compared_in_fp32() -> None:
    draw = random.Random(8)
    q, p = (unit(draw, 6, 32).bfloat16() for _ in range(2))
    loss = info_nce(q, p, torch.arange(6), 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(info_nce(q.double(), p.double(), torch.arange(6), 0.05).item(), rel=1e-6)
