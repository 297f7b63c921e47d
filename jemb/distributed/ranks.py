"""Who this process is, and small agreements between all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes in the job; 1 when nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 to world_size() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def max_over_ranks(value: int) -> int:
    """The largest of the ranks' values, on every rank."""
    if world_size() == 1:
        return value
    told: list[int] = [0] * world_size()
    dist.all_gather_object(told, value)
    return max(told)


def reachable(values: Tensor) -> Tensor:
    """The same where the processes have collectives for it: on the GPU if they have NCCL alone."""
    there = values.is_cuda or "cpu" in dist.get_backend_config()
    return values if there else values.to(torch.device("cuda", torch.cuda.current_device()))


def mean_over_ranks(values: Tensor) -> Tensor:
    """Element-wise mean of equally shaped `values` over all ranks, on the CPU and without gradient.

    By gloo where there is one beside NCCL: it fails at once where a rank is gone, and waits for no kernels.
    """
    values = values.detach().to("cpu", copy=True)
    if world_size() > 1:
        values = reachable(values)
        dist.all_reduce(values)
        values = values.cpu() / world_size()
    return values
