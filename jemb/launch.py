"""Who started this process, and its end with them: the only file that reads what torchrun, Slurm and others say.

Standard library alone, for the command line looks here before torch is imported.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

from jemb.core.errors import InputError

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process, and others that start processes as it does."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class RankInfo:
    """Where this process stands in its job. local_world_size: processes on its node; port: 0 for a process alone."""

    rank: int = 0
    local_rank: int = 0
    node: int = 0
    world_size: int = 1
    local_world_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    by_slurm: bool = False


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_ranks(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Where this process stands: one that torchrun started, a task of an `srun` step, or alone.

    A batch script that Slurm runs, and a shell of `salloc`, know the number of tasks of their job, too, but are not
    one of them: only a step has SLURM_STEP_NUM_TASKS.
    """
    if all(name in environment for name in LAUNCHED):
        number = partial(_number, environment)
        rank, size, port = number("RANK"), number("WORLD_SIZE"), number("MASTER_PORT")
        if rank >= size:
            raise InputError(f"RANK={rank}, WORLD_SIZE={size}: wanted a rank below the number of processes")
        local = number("LOCAL_RANK", 0)
        per_node = number("LOCAL_WORLD_SIZE", size if "LOCAL_RANK" in environment else 1)
        node = number("GROUP_RANK", rank // max(per_node, 1))
        return RankInfo(rank, local, node, size, per_node, environment["MASTER_ADDR"], port)
    size = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    return _task_of_slurm(environment, size) if size > 1 and "SLURM_PROCID" in environment else RankInfo()


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    """A whole number that a launcher sets; `InputError` naming the variable where it is none."""
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise InputError(f"{name}={text}: wanted a whole number, as torchrun and Slurm set it")
    return int(text)


def _task_of_slurm(environment: Mapping[str, str], size: int) -> RankInfo:
    node = _number(environment, "SLURM_NODEID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    # Steps of one job may run beside each other: each has a port of its own, the same on all of its nodes, and none of
    # those that Ray gives its workers (10002 to 19999) or the system to anybody (from 32768).
    number = _number(environment, "SLURM_JOB_ID") + 101 * _number(environment, "SLURM_STEP_ID")
    return RankInfo(
        rank=_number(environment, "SLURM_PROCID"),
        local_rank=_number(environment, "SLURM_LOCALID"),
        node=node,
        world_size=size,
        local_world_size=tasks_of_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)), node),
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=_number(environment, "MASTER_PORT", 20000 + number % 10000),
        by_slurm=True,
    )


@dataclass(frozen=True, slots=True)
class Node:
    """Where this task stands. names: of all nodes; tasks: processes that will train on this one; address, port: where
    all meet on the first; seconds: how long they wait; logs: a folder that the launch script has just made; has_gpus:
    Slurm says that there are some."""

    number: int
    names: tuple[str, ...]
    tasks: int
    address: str
    port: int
    seconds: float
    logs: str | None
    has_gpus: bool

    @property
    def name(self) -> str:
        return self.names[self.number]


def find_node(environment: Mapping[str, str] = os.environ) -> Node:
    """From the variables of Slurm and of the launch script; without them, this machine alone."""
    number = int(environment.get("SLURM_NODEID", "0"))
    return Node(
        number=number,
        names=tuple(environment.get("PREFLIGHT_NODES", platform.node()).split()),
        tasks=tasks_of_node(environment.get("PREFLIGHT_TASKS", "1"), number),
        address=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=int(environment.get("MASTER_PORT", "29500")),
        seconds=float(environment.get("PREFLIGHT_SECONDS", "120")),
        logs=environment.get("PREFLIGHT_LOGS"),
        has_gpus="SLURM_GPUS_ON_NODE" in environment,
    )


def tasks_of_node(listed: str, node: int) -> int:
    """The tasks of node `node` in Slurm's short form: `2(x3),1` is 2, 2, 2 and 1."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    return counts[node]


def first_host(listed: str) -> str:
    """The first of the hosts in Slurm's short form: `gpu[07-08,11],x1` begins with gpu07."""
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", listed).split(",")[0]


def planned_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """The number of processes that a launcher, or WORLD_SIZE alone, says will train."""
    return _number(environment, "WORLD_SIZE", find_ranks(environment).world_size)


def store_of_agent(environment: Mapping[str, str] = os.environ) -> str | None:
    """The prefix under which the processes of this start meet in the store of torchrun's agent; None without one.

    The agent keeps one store for all its restarts.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return f"jemb/start-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{environment.get('WORLD_SIZE')}"


def end_at_early_signals() -> None:
    """Until training listens, a SIGTERM or SIGUSR1 ends this process, and well: there is nothing to save yet."""

    def end(number: int, frame: object) -> None:
        os.write(2, f"jemb train: asked by {signal.Signals(number).name} to stop, before it began\n".encode())
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, end)


def end_with_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """End this process soon after the torchrun or srun that started it, however that ended: else it would wait for
    others who never come, and hold the run's lock and its GPU. Nothing where nobody of the kind started it."""
    if "TORCHELASTIC_RUN_ID" in environment or find_ranks(environment).by_slurm:
        end_with_parent()


@cache
def end_with_parent() -> None:
    """From here on this process is killed once its parent is gone. Files are whole or absent, so nothing is lost."""
    parent = os.getppid()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def watch() -> None:  # where there is no such call, and for a parent that was gone before it
        while not _gone(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _gone(parent: int) -> bool:
    """Whether the process that had this number when it was our parent has ended; for a worker of multiprocessing also
    where it had ended before we could ask for its number."""
    started = multiprocessing.parent_process()
    return os.getppid() != parent or (started is not None and not started.is_alive())


def obey_parent_alone() -> None:
    """This worker ends when its parent asks it to by SIGTERM, as Python does at its own end, or is gone.

    Signals from others are for the parent: a terminal and Slurm send them to all processes of a job, and the parent
    still needs its workers to stop well.
    """
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "linux":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def watch() -> None:
        while not _gone(parent):
            told = signal.sigtimedwait({signal.SIGTERM}, 1)
            if told and told.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
