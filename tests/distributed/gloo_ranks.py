"""Real gloo processes that run a function on every rank and hand back what it returns."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["jemb.train", "gloo_ranks"])


def on_ranks(folder: Path, world_size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """[work(*arguments) of rank 0, of rank 1, …]; `work` must be importable. Raises what a rank raised, as text."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        _context.Process(target=_rank, args=(folder, rank, world_size, work, arguments)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    failed = [path.read_text() for path in sorted(folder.glob("*.error"))]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            failed.append("a rank did not end")
    assert not failed, "\n".join(failed)
    return [torch.load(folder / f"{rank}.out", weights_only=False) for rank in range(world_size)]


def _rank(folder: Path, rank: int, world_size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)
        # A file as the meeting place: no port that another test might take.
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
        torch.save(work(*arguments), folder / f"{rank}.out")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
