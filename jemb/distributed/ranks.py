"""Who this process is, work that one does for all, and facts in which all must agree: whatever goes wrong on one is
raised on each.

Before: `processes.py` has joined them. After: all go on with the same, or all end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from jemb.core.errors import Failure, InputError

T = TypeVar("T")


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


def on_rank_zero(work: Callable[[], Any]) -> Any:
    """The result of `work`, done by rank 0 alone; what it raises is raised on every rank, so none waits for ever."""
    if world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    told: list[Any] = [None] * world_size()
    # Not a broadcast: gloo's sender does not always notice that its receiver has died, and waits for the time-out.
    dist.all_gather_object(told, outcome)
    result, problem = told[0]
    if problem is not None:
        raise problem
    return result


def agreed(work: Callable[[], T], facts: Callable[[T], Mapping[str, str]]) -> T:
    """The result of `work`, done by every process, once it has ended well in all and all found the same `facts` of it.

    Raises on all of them: what `work` raised on one, or InputError with the facts in which they differ.
    """
    if world_size() == 1:
        return work()
    found: Mapping[str, str] = {}
    problem: Exception | None = None
    try:
        result = work()
        found = facts(result)
    except Exception as error:
        problem = error
    told: list[Any] = [None] * world_size()
    dist.all_gather_object(told, (address(), dict(found), problem and (type(problem), str(problem))))
    if problem:
        raise problem
    for number, (place, _, other) in enumerate(told):
        if other:
            kind = InputError if issubclass(other[0], InputError) else Failure
            raise kind(f"process {number} ({place}): {other[1]}")
    for number, (place, theirs, _) in enumerate(told):
        values = {name: (told[0][1].get(name, "none"), theirs.get(name, "none")) for name in told[0][1] | theirs}
        if different := [f"  {name}: {one}, {other}" for name, (one, other) in values.items() if one != other]:
            places = f"process 0 ({told[0][0]}) and process {number} ({place})"
            raise InputError(
                f"{places} differ in what follows; give all processes the same code, shards and options:\n"
                + "\n".join(different[:8])
            )
    return result


def address() -> str:
    """Host and process id, by which a user finds this process."""
    return f"{socket.gethostname()}, pid {os.getpid()}"
