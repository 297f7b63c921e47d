"""Work that one process does for all, and facts in which all must agree: whatever goes wrong on one is raised on each.

Before: `processes.py` has joined them. After: all go on with the same, or all end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist

from jemb.core.errors import Failure, InputError
from jemb.distributed.ranks import rank, world_size

T = TypeVar("T")


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
        if different := differences(told[0][1], theirs):
            places = f"process 0 ({told[0][0]}) and process {number} ({place})"
            raise InputError(
                f"{places} differ in what follows; give all processes the same shards and options:\n"
                + "\n".join(f"  {name}: {one}, {another}" for name, one, another in different[:8])
            )
    return result


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, value, value) of all facts in which the two differ; `none` for one that is not there."""
    names = [*one, *(name for name in other if name not in one)]
    pairs = [(name, one.get(name, "none"), other.get(name, "none")) for name in names]
    return [(name, here, there) for name, here, there in pairs if here != there]


def address() -> str:
    """Host and process id, by which a user finds this process."""
    return f"{socket.gethostname()}, pid {os.getpid()}"
