"""Where the tasks of `prepare` run: in processes of this machine, or on a Ray cluster.

An executor only runs tasks; what they do, and that they can be done twice, is `job.py`'s and the stages' business.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any, TypeVar

from tqdm import tqdm

from jemb.core.errors import Failure
from jemb.launch import end_with_parent, usable_cores

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Tasks handed out for each worker: the next one is there when one is done, and a kill loses little."""


class Executor(AbstractContextManager["Executor"], ABC):
    """Runs tasks somewhere."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Tasks that can run at once."""

    @abstractmethod
    def run(
        self, function: Callable[[T], R], items: Sequence[T], *, gpu: bool = False, serial: bool = False
    ) -> Iterator[tuple[int, R]]:
        """(number of the item, result) as tasks finish, in any order. Errors of a task come through as they are.

        gpu: give each task a GPU of its own, where there are any. serial: too little work to start processes for.
        Raises `Failure` when a worker dies.
        """


class LocalExecutor(Executor):
    """Processes on this machine: `count` of them (0: one for each usable core), started when first needed."""

    workers: int = 0

    def __init__(self, count: int) -> None:
        self.workers = count or usable_cores()
        self._cpu: ProcessPoolExecutor | None = None
        self._gpu: ProcessPoolExecutor | None = None

    def run(
        self, function: Callable[[T], R], items: Sequence[T], *, gpu: bool = False, serial: bool = False
    ) -> Iterator[tuple[int, R]]:
        num_gpus = _num_gpus() if gpu else 0
        if num_gpus > 1 and not serial:
            self._gpu = self._gpu or _pool(num_gpus, pin=True)
            yield from _unordered(self._gpu, num_gpus, function, items)
        elif serial or self.workers == 1 or num_gpus == 1:
            yield from ((number, function(item)) for number, item in enumerate(items))
        else:
            self._cpu = self._cpu or _pool(self.workers)
            yield from _unordered(self._cpu, self.workers, function, items)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for pool in (self._cpu, self._gpu):
            if pool is not None:
                if error is not None:  # a task may take minutes; its work is not wanted any more
                    for process in list((pool._processes or {}).values()):
                        process.terminate()
                pool.shutdown(cancel_futures=True)


def _pool(count: int, *, pin: bool = False) -> ProcessPoolExecutor:
    # Not fork: a copy of a process with running threads (torch's, say) can hang.
    context = multiprocessing.get_context("spawn")
    gpus: Any = None
    if pin:
        gpus = context.SimpleQueue()
        for number in range(count):
            gpus.put(number)
    return ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(gpus,))


def _unordered(
    pool: ProcessPoolExecutor, workers: int, function: Callable[[T], R], items: Sequence[T]
) -> Iterator[tuple[int, R]]:
    waiting: dict[Future[R], int] = {}
    numbers = iter(range(len(items)))
    try:
        while True:
            while len(waiting) < AHEAD * workers and (number := next(numbers, None)) is not None:
                waiting[pool.submit(function, items[number])] = number
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise Failure(
            f"one of {workers} worker processes was killed, perhaps by the system for lack of memory. What was done is "
            "kept: run the same command again, with fewer workers if it is memory"
        ) from None


def _start_worker(gpus: Any) -> None:
    """In a new worker: leave Ctrl-C to the parent, take a GPU, and end when the parent is gone, whatever ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(RLock())  # its own is a semaphore of the system, left behind by a worker that is ended
    end_with_parent()
    if gpus is not None:
        number = gpus.get()  # among the GPUs that this job may use
        allowed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        os.environ["CUDA_VISIBLE_DEVICES"] = allowed[number] if allowed else str(number)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()
