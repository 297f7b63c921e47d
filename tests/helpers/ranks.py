"""Real processes with what torchrun tells each, forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from jemb.distributed.processes import joined_processes

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.helpers.preloaded", "tests.helpers.ranks"])


def start_server() -> None:
    """Start the process that all others are forked from. Before any test, lest it take over what one has put into the
    environment; the server is not told otherwise where this file is."""
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2])):
        forkserver.ensure_running()


class Meeting:
    """Where `size` processes meet, for as long as this object lives: a store in this process, as torchrun has it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if size > 1 else None

    def environment(self, rank: int) -> dict[str, str]:
        """What torchrun sets in a process; nothing in one that is alone."""
        if self._store is None:
            return {}
        facts = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "GROUP_RANK": 0,
            "WORLD_SIZE": self.size,
            "LOCAL_WORLD_SIZE": self.size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": self._store.port,
            "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_USE_AGENT_STORE": True,
            "TORCHELASTIC_RESTART_COUNT": 0,
        }
        return {name: str(value) for name, value in facts.items()}


def run_ranks(size: int, work: Callable[..., Any], *arguments: Any, seconds: float = 240) -> list[int | None]:
    """Exit codes of `work(rank, *arguments)`, importable, in `size` processes; None: it did not end, and was killed."""
    meeting = Meeting(size)
    started = [
        context.Process(target=_start, args=(meeting.environment(rank), work, rank, *arguments)) for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    return codes


def on_ranks(folder: Path, size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """[work(*arguments) of rank 0, of rank 1, …]; the process group is the work's to make, as by `joined`. Raises what
    a rank raised, as text."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = run_ranks(size, _keep, folder, work, arguments)
    assert codes == [0] * size, "\n".join(
        [f"exit codes {codes}", *(p.read_text() for p in sorted(folder.glob("*.error")))]
    )
    return [torch.load(folder / f"{rank}.out", weights_only=False) for rank in range(size)]


def joined(work: Callable[[], Any]) -> Any:
    """`work` for `on_ranks`, inside of a process group."""
    with joined_processes("cpu", 2):
        found = work()
        dist.barrier()
        return found


def write_to(output: Path) -> None:
    """From here on this process writes to the end of that file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _start(environment: dict[str, str], work: Callable[..., Any], rank: int, *arguments: Any) -> None:
    os.environ.update(environment)
    work(rank, *arguments)


def _keep(rank: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)
        torch.save(work(*arguments), folder / f"{rank}.out")
    except BaseException:
        (folder / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()
