"""Rows of all ranks on every rank, with gradient. The law that makes distributed training exact is written here.

Each rank computes the loss of its own rows against candidates from all ranks. A candidate's gradient is the sum of what
all ranks want of it, so backward SUMS over ranks. With a mean over local rows in the loss, equal row counts, and the
strategy's mean of parameter gradients over ranks, the result is the gradient of one process that holds the whole batch.
So nobody multiplies or divides by the world size, anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jemb.distributed.ranks import rank, reachable, world_size

# torch 2.13 renamed both and warns at the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        ctx.rows = x_BD.shape[0]
        return gather_values(x_BD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_ND = grads[0].contiguous()
        if grad_ND.is_cuda:
            grad_BD = torch.empty_like(grad_ND[: ctx.rows])
            _reduce_scatter(grad_BD, grad_ND)
            return grad_BD
        # gloo has no reduce-scatter in every supported torch version; a copy, because grad_ND belongs to autograd
        grad_ND = grad_ND.clone()
        dist.all_reduce(grad_ND)
        return grad_ND[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(x_BD: Tensor) -> Tensor:
    """[B, D] on each rank -> [W*B, D] in rank order, B equal on all ranks. Backward sums over ranks (see above)."""
    if world_size() == 1:
        return x_BD
    return _GatherRows.apply(x_BD)


def gather_values(x: Tensor) -> Tensor:
    """[B, …] on each rank -> [W*B, …] in rank order on the same device, without gradient; for hashes and other facts
    about rows. Of values on the host by gloo where there is one beside NCCL, so that nobody waits for kernels."""
    if world_size() == 1:
        return x.detach()
    x, device = reachable(x.detach().contiguous()), x.device
    out = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
    _all_gather(out, x)
    return out.to(device)
