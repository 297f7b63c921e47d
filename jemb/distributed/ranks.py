"""Who this process is, and small agreements between all processes."""

from __future__ import annotations

import re

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes in the job; 1 when nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 to world_size() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def mean_over_ranks(values: Tensor) -> Tensor:
    """Element-wise mean of equally shaped `values` over all ranks, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def tasks_of_node(listed: str, node: int) -> int:
    """The tasks of node `node` in Slurm's short form: `2(x3),1` is 2, 2, 2 and 1."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    return counts[node]
