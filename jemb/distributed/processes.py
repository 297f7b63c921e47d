"""The processes of one job: joined before anything else, so that rank 0 can prepare files while the others wait."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from jemb.core.errors import Failure, InputError
from jemb.launch import RankInfo, end_with_launcher, find_ranks, store_of_agent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Processes:
    """How this job is laid out; device: where this process computes."""

    info: RankInfo
    device: torch.device

    @property
    def nodes(self) -> int:
        return max(1, self.info.world_size // self.info.local_world_size)

    @property
    def devices_of_node(self) -> list[torch.device]:
        """As Lightning's strategies want them: one for each process of this node."""
        return [self.device] * self.info.local_world_size


@contextmanager
def joined_processes(device: str, timeout_minutes: float) -> Iterator[Processes]:
    """Join the processes that torchrun or srun started; a plain `python` or `jemb` is one process.

    Raises InputError when the device does not exist.
    """
    info = find_ranks()
    end_with_launcher()
    kind = choose_device(device)
    own = torch.device(kind)
    if kind == "cuda":
        own = torch.device("cuda", choose_gpu(info, torch.cuda.device_count()))
        torch.cuda.set_device(own)
    if kind == "mps" and info.world_size > 1:
        raise InputError(f"device=mps is for one process; {info.world_size} were started")
    if info.world_size > 1:
        os.environ.setdefault("MASTER_ADDR", info.address)
        os.environ.setdefault("MASTER_PORT", str(info.port))
        _join(info, own, timeout_minutes)
    try:
        yield Processes(info, own)
    except BaseException:
        if dist.is_initialized():
            with suppress(RuntimeError):  # destroying alone waits for processes that are stuck
                dist.group.WORLD.abort()  # type: ignore[union-attr]
        raise
    finally:
        _leave()


def _leave() -> None:
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()  # or a next run in this process would get the groups of this one
    elif dist.is_initialized():
        dist.destroy_process_group()


def _join(info: RankInfo, device: torch.device, timeout_minutes: float) -> None:
    """On GPUs the processes also talk by gloo: what they tell each other besides tensors must not wait for kernels, and
    a process that is gone must be an error in those that live."""
    timeout = timedelta(minutes=timeout_minutes)
    on_gpu: dict[str, Any] = {}
    if device.type == "cuda":
        on_gpu = {"device_id": device}
        # NCCL's own watchdog would abort the process without a word: 2 leaves that to us (peers.py).
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    try:
        store = _store_of_this_start(info, timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=info.rank,
            world_size=info.world_size,
            timeout=timeout,
            **on_gpu,
        )
    except RuntimeError as error:
        failure = Failure(
            f"the {info.world_size} processes did not all meet at {info.address}:{info.port} within "
            f"{timeout_minutes:g} minutes (timeout_minutes): one has ended, was not started, or cannot reach that "
            f"address ({' '.join(str(error).split())[:200]})"
        )
        if info.rank == 1:
            log.error("jemb train: process 1: %s", failure)  # the first, which speaks for all, may be the one
        raise failure from error


def _store_of_this_start(info: RankInfo, timeout: timedelta) -> Store | None:
    """The store through which the processes meet; None: torch makes one.

    torchrun keeps one for all its restarts, and from torch 2.13 on the addresses of processes that are dead stand in it
    under the names of the new ones: whoever asks too early calls them in vain, and the restart fails.
    """
    if (prefix := store_of_agent()) is None:
        return None
    store = dist.TCPStore(info.address, info.port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def choose_device(name: str) -> str:
    """cpu, cuda or mps. Raises InputError where there is no such device."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name, True):
        raise InputError(f"device={name}: no {name.upper()} device here; use device=cpu or device=auto")
    return name


def choose_gpu(info: RankInfo, visible: int) -> int:
    """The GPU of this process among the `visible` ones. Raises InputError where there are more processes than GPUs."""
    if info.world_size == 1 and visible > 1:
        log.warning(
            "using 1 of %d GPUs; to use all: torchrun --nproc-per-node %d -m jemb.app.train …", visible, visible
        )
    if info.local_rank < visible:
        return info.local_rank
    if info.by_slurm and visible == 1:  # srun --gpus-per-task=1 shows each task its own GPU only
        return 0
    raise InputError(f"{info.local_world_size} processes on a machine with {visible} GPUs: start one for each GPU")
