"""Log-sum-exp by tiles: any shape, any mask, equal to the whole table of logits; and never as large as that table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from jemb.loss import equal_texts, log_sum_exp
from tests.helpers.full_logits import unit


def whole_table(
    q: Tensor, c: Tensor, temperature: float, own: int | None, hide: Tensor | None, limit: Tensor | None
) -> tuple[Tensor, int]:
    """(log-sum-exps, hidden candidates). A row without candidates: -inf, without gradient."""
    s = q @ c.T
    out = torch.zeros_like(s, dtype=torch.bool)
    if own is not None:
        out[torch.arange(len(q)), own + torch.arange(len(q))] = True
    hidden = torch.zeros_like(out) if hide is None else hide
    if limit is not None:
        hidden = hidden | (s > limit[:, None])
    left = ~(out | hidden)
    values = ((s / temperature).exp() * left).sum(1)
    return torch.where(values > 0, values, 1).log().masked_fill(values == 0, -torch.inf), int((hidden & ~out).sum())


def weighted(values: Tensor) -> Tensor:
    """A scalar that wants something different of each row."""
    weights = torch.linspace(0.5, 2, len(values), dtype=values.dtype)
    return (weights * values.masked_fill(values == -torch.inf, 0)).sum()


@settings(max_examples=150)
@given(data=st.data())
def test_any_shape_and_mask(data: st.DataObject) -> None:
    """Rows and candidates on, before and after tile borders; texts so few that now and then all are hidden."""
    rows, extra, width = (data.draw(st.integers(*bounds)) for bounds in ((1, 7), (0, 9), (1, 5)))
    own = data.draw(st.one_of(st.none(), st.integers(0, extra)))
    tile = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 17))
    temperature = data.draw(st.sampled_from([0.02, 0.05, 1.0]))
    texts = data.draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, c = unit(generator, rows, width).requires_grad_(), unit(generator, rows + extra, width).requires_grad_()
    limit = 2 * torch.rand(rows, generator=generator, dtype=torch.float64) - 0.5 if data.draw(st.booleans()) else None
    mine = torch.randint(texts, (rows, 2), generator=generator)
    theirs = torch.randint(texts, (rows + extra, data.draw(st.integers(1, 2))), generator=generator)
    hide = (mine[:, None, :, None] == theirs[None, :, None, :]).any(-1).any(-1) if data.draw(st.booleans()) else None
    equal = None if hide is None else equal_texts(mine, theirs, own)

    expected, hidden = whole_table(q, c, temperature, own, hide, limit)
    found = log_sum_exp(q, c, temperature, own=own, equal=equal, limit_B=limit, tile=tile)
    assert int(found.hidden) == hidden
    assert found.candidates == rows + extra - (own is not None)
    torch.testing.assert_close(found.values_B, expected, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(weighted(found.values_B), (q, c))
    wanted = torch.autograd.grad(weighted(expected), (q, c))
    torch.testing.assert_close(grads, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mask", [False, True])
def test_derivatives_are_those_of_small_steps(mask: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, c = unit(generator, 5, 3).requires_grad_(), unit(generator, 7, 3).requires_grad_()
    mine, theirs = torch.randint(6, (5, 2), generator=generator), torch.randint(6, (7, 2), generator=generator)
    options: dict[str, Any] = {"own": 1, "equal": equal_texts(mine, theirs, 1)} if mask else {}
    assert not mask or options["equal"] is not None

    def values(q: Tensor, c: Tensor) -> Tensor:
        return log_sum_exp(q, c, 0.2, tile=(2, 3), **options).values_B

    assert torch.autograd.gradcheck(values, (q, c))


@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_fp32_is_as_exact_as_the_whole_table_in_float64(temperature: float) -> None:
    """Values and both gradients, in several tiles each way."""
    generator = torch.Generator().manual_seed(2)
    q, c = unit(generator, 700, 64).float().requires_grad_(), unit(generator, 2100, 64).float().requires_grad_()
    exact = [q.detach().double().requires_grad_(), c.detach().double().requires_grad_()]
    limit = torch.full((700,), 0.2)
    expected, hidden = whole_table(exact[0], exact[1], temperature, 1400, None, limit.double())
    found = log_sum_exp(q, c, temperature, own=1400, limit_B=limit)
    assert found.hidden == hidden > 1000
    torch.testing.assert_close(found.values_B.double(), expected, rtol=1e-6, atol=1e-6)
    for grad, wanted in zip(
        torch.autograd.grad(weighted(found.values_B), (q, c)),
        torch.autograd.grad(weighted(expected), exact),
        strict=True,
    ):
        assert float((grad - wanted).norm() / wanted.norm()) < 1e-6


def test_numbers_of_any_size() -> None:
    """At temperature 0.001 logits reach 1000: neither their exponential nor that of their distance is a number."""
    q = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    c = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    for tile in ((1, 1), (2, 2), (2, 3)):
        values = log_sum_exp(q, c, 0.001, tile=tile).values_B
        assert values.tolist() == pytest.approx([1000.0, 1000.0 + 0.6931472])


def test_nothing_else_is_differentiated() -> None:
    generator = torch.Generator().manual_seed(3)
    q, c = unit(generator, 4, 3), unit(generator, 6, 3).requires_grad_()
    limit = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    found = log_sum_exp(q, c, 0.5, limit_B=limit)
    found.values_B.masked_fill(found.values_B == -torch.inf, 0).sum().backward()
    assert c.grad is not None
    assert limit.grad is None
    assert not found.hidden.requires_grad
    (grad,) = torch.autograd.grad(log_sum_exp(q, c, 0.5).values_B.square().sum(), c, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_own_columns_that_do_not_exist_are_refused() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="own=3"):
        log_sum_exp(x, torch.ones(5, 2), 1.0, own=3)
    with pytest.raises(ValueError, match="own=-1"):
        log_sum_exp(x, torch.ones(5, 2), 1.0, own=-1)


def test_the_arithmetic_is_fp32_inside_autocast() -> None:
    generator = torch.Generator().manual_seed(4)
    q, c = unit(generator, 9, 32).float(), unit(generator, 30, 32).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_sum_exp(q, c, 0.05).values_B
        (grad,) = torch.autograd.grad(found.sum(), c)
    expected = log_sum_exp(q, c, 0.05).values_B
    assert torch.equal(found, expected)
    assert torch.equal(grad, torch.autograd.grad(expected.sum(), c)[0])


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation hands out."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else [out]:
            if isinstance(item, Tensor):
                self.numel = max(self.numel, item.numel())
        return out


def test_no_tensor_is_larger_than_a_tile_or_the_vectors() -> None:
    """Forward and backward, with every mask, a third of the texts being equal to others."""
    rows, candidates, width, tile = 300, 900, 16, (32, 64)
    generator = torch.Generator().manual_seed(5)
    q = normalize(torch.randn(rows, width, generator=generator)).requires_grad_()
    c = normalize(torch.randn(candidates, width, generator=generator)).requires_grad_()
    mine = torch.randint(1500, (rows, 2), generator=generator)
    theirs = torch.randint(1500, (candidates, 2), generator=generator)
    with Largest() as largest:
        equal = equal_texts(mine, theirs, 300)
        assert equal is not None
        assert 200 < len(equal.positions) < 800
        found = log_sum_exp(q, c, 0.05, own=300, equal=equal, limit_B=torch.full((rows,), 0.5), tile=tile)
        found.values_B.sum().backward()
    assert int(found.hidden) > 300
    assert tile[0] * tile[1] <= largest.numel <= candidates * width
    with Largest() as largest:
        whole_table(q, c, 0.05, 300, None, None)
    assert largest.numel == rows * candidates, "what the check above would find"
