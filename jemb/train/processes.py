"""The processes of one job: joined before anything else, so that rank 0 can prepare files while the others wait."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from jemb.distributed import rank, world_size
from jemb.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Processes:
    """How this job is laid out. environment: Lightning's view of the launcher; device: where this process computes."""

    environment: ClusterEnvironment
    device: torch.device
    per_node: int
    nodes: int


@contextmanager
def joined_processes(device: str, timeout_minutes: float) -> Iterator[Processes]:
    """Join the processes that torchrun or srun started; a plain `python` or `jemb` is one process.

    Raises InputError when the device does not exist.
    """
    environment = _environment()
    size, local = environment.world_size(), environment.local_rank()
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: no CUDA device here; use device=cpu or device=auto")
    use_cuda = torch.cuda.is_available() and device != "cpu"
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size // int(os.environ.get("SLURM_NNODES", "1"))))
    if use_cuda:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"{per_node} processes on a machine with {torch.cuda.device_count()} GPUs: start one for each GPU"
            )
        torch.cuda.set_device(local)
        if size == 1 and torch.cuda.device_count() > 1:
            log.warning(
                "using 1 of %d GPUs; to use all: torchrun --nproc-per-node %d -m jemb.app.train …",
                torch.cuda.device_count(),
                torch.cuda.device_count(),
            )
    if size > 1:
        os.environ.setdefault("MASTER_ADDR", environment.main_address)
        os.environ.setdefault("MASTER_PORT", str(environment.main_port))
        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            rank=environment.global_rank(),
            world_size=size,
            timeout=timedelta(minutes=timeout_minutes),
        )
    try:
        yield Processes(
            environment=environment,
            device=torch.device("cuda", local) if use_cuda else torch.device("cpu"),
            per_node=per_node,
            nodes=max(1, size // per_node),
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _environment() -> ClusterEnvironment:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


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
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
