"""The loss's matrix products are in full fp32, whatever others of fp32 numbers are computed in (TF32, bf16 parts)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

FULL = "highest"
"""torch's name for it; `high` is TF32 on GPUs that have it: a mantissa of 10 bits in place of 23."""


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """While it is open, products of fp32 matrices are computed so; as `torch.set_float32_matmul_precision` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def in_full_from_here(vectors: list[Tensor]) -> list[Tensor]:
    """The vectors. Products of what is computed from them are in full fp32, forward and backward. Where backward comes
    back to here, the precision is again what it was before, for the products of the vectors themselves and after."""
    before = torch.get_float32_matmul_precision()
    if before == FULL:
        return vectors
    torch.set_float32_matmul_precision(FULL)
    return list(_InFull.apply(before, *vectors))


class _InFull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: str, *vectors: Tensor) -> tuple[Tensor, ...]:
        ctx.before = before
        return tuple(vector.view_as(vector) for vector in vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        torch.set_float32_matmul_precision(ctx.before)
        return None, *grads
