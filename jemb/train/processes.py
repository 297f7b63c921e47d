"""The processes of one job: joined before anything else, so that rank 0 can prepare files while the others wait."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment

from jemb.distributed import rank, tasks_of_node, world_size
from jemb.errors import Failure, InputError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

log = logging.getLogger(__name__)

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process, and others that start processes as it does."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands in the job, as its launcher said. local: number on its node; per_node: of those."""

    rank: int
    local: int
    node: int
    size: int
    per_node: int
    address: str
    port: int
    by_slurm: bool = False


@dataclass(frozen=True, slots=True)
class Processes:
    """How this job is laid out. environment: the same for Lightning; device: where this process computes."""

    environment: ClusterEnvironment
    device: torch.device
    per_node: int
    nodes: int

    @property
    def size(self) -> int:
        return self.environment.world_size()


class JoinedEnvironment(ClusterEnvironment):
    """Tells Lightning what is so already. Its own Slurm environment takes a batch script for a process of a step, and
    refuses tasks that were not counted by node."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.place.size

    def set_world_size(self, size: int) -> None:
        """Fixed."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """Fixed."""

    def local_rank(self) -> int:
        return self.place.local

    def node_rank(self) -> int:
        return self.place.node


@contextmanager
def joined_processes(device: str, timeout_minutes: float) -> Iterator[Processes]:
    """Join the processes that torchrun or srun started; a plain `python` or `jemb` is one process.

    Raises InputError when the device does not exist.
    """
    place = find_place(os.environ)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: no CUDA device here; use device=cpu or device=auto")
    use_cuda = torch.cuda.is_available() and device != "cpu"
    own = torch.device("cuda", choose_gpu(place, torch.cuda.device_count())) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(own)
    if place.size > 1:
        os.environ.setdefault("MASTER_ADDR", place.address)
        os.environ.setdefault("MASTER_PORT", str(place.port))
        _join(place, "nccl" if use_cuda else "gloo", timeout_minutes)
    try:
        nodes = max(1, place.size // place.per_node)
        yield Processes(JoinedEnvironment(place), own, place.per_node, nodes)
    finally:
        _part()


def _part() -> None:
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()  # or a next run in this process would get the groups of this one
    elif dist.is_initialized():
        dist.destroy_process_group()


def _join(place: Place, backend: str, timeout_minutes: float) -> None:
    timeout = timedelta(minutes=timeout_minutes)
    try:
        store = _store_of_this_start(place, timeout)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
    except RuntimeError as error:
        failure = Failure(
            f"the {place.size} processes did not all meet at {place.address}:{place.port} within {timeout_minutes:g} "
            "minutes (timeout_minutes): one has ended, was not started, or cannot reach that address "
            f"({' '.join(str(error).split())[:200]})"
        )
        if place.rank == 1:
            log.error("jemb train: process 1: %s", failure)  # the first, which speaks for all, may be the one
        raise failure from error


def _store_of_this_start(place: Place, timeout: timedelta) -> Store | None:
    """The store through which the processes meet; None: torch makes one.

    torchrun keeps one for all its restarts, and from torch 2.13 on the addresses of processes that are dead stand in it
    under the names of the new ones: whoever asks too early calls them in vain, and the restart fails.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store = dist.TCPStore(place.address, place.port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    start = f"jemb/start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{place.size}"
    return dist.PrefixStore(start, store)  # type: ignore[attr-defined]


def find_place(environment: Mapping[str, str]) -> Place:
    """Where this process stands, from the environment: one that torchrun started, a task of an `srun` step, or alone.

    A batch script that Slurm runs, and a shell of `salloc`, know the number of tasks of their job, too, but are not
    one of them: only a step has SLURM_STEP_NUM_TASKS.
    """
    if all(name in environment for name in LAUNCHED):
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", "0"))
        per_node = int(environment.get("LOCAL_WORLD_SIZE", size if "LOCAL_RANK" in environment else 1))
        node = int(environment.get("GROUP_RANK", rank // per_node))
        return Place(rank, local, node, size, per_node, environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size > 1 and "SLURM_PROCID" in environment:
        return _slurm_place(environment, size)
    return Place(0, 0, 0, 1, 1, "127.0.0.1", _free_port())


def _slurm_place(environment: Mapping[str, str], size: int) -> Place:
    node = int(environment.get("SLURM_NODEID", "0"))
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    # Steps of one job may run beside each other: each has a port of its own, the same on all of its nodes, and none of
    # those that Ray gives its workers (10002 to 19999) or the system to anybody (from 32768).
    number = int(environment.get("SLURM_JOB_ID", "0")) + 101 * int(environment.get("SLURM_STEP_ID", "0"))
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        local=int(environment.get("SLURM_LOCALID", "0")),
        node=node,
        size=size,
        per_node=tasks_of_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)), node),
        address=environment.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes),
        port=int(environment.get("MASTER_PORT") or 20000 + number % 10000),
        by_slurm=True,
    )


def choose_gpu(place: Place, visible: int) -> int:
    """The GPU of this process among the `visible` ones. Raises InputError where there are more processes than GPUs."""
    if place.size == 1 and visible > 1:
        log.warning(
            "using 1 of %d GPUs; to use all: torchrun --nproc-per-node %d -m jemb.app.train …", visible, visible
        )
    if place.local < visible:
        return place.local
    if place.by_slurm and visible == 1:  # srun --gpus-per-task=1 shows each task its own GPU only
        return 0
    raise InputError(f"{place.per_node} processes on a machine with {visible} GPUs: start one for each GPU")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
