"""Worker processes for the stages that are pure Python work: signing texts and telling languages.

`run.py` hands `Workers.map` to the stages as their `Mapper`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from jemb.errors import Failure

T = TypeVar("T")
R = TypeVar("R")

MIN_CHUNKS = 20
"""Fewer chunks are done in this process: starting the others takes longer (about 20,000 texts to sign)."""


class Workers:
    """A pool of `count` processes (0: one for each usable core), started when first needed. A context manager."""

    def __init__(self, count: int) -> None:
        self.count = count or (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Sequence[T], /, what: str = "") -> Iterator[R]:
        """`function` of each item, in order, with a progress bar named `what`. Raises `Failure` if a process dies."""
        with tqdm(total=len(items), desc=what, unit="chunk", leave=False, disable=None) as bar:
            for result in self._results(function, items):
                bar.update()
                yield result

    def _results(self, function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        if self.count == 1 or len(items) < MIN_CHUNKS:
            yield from map(function, items)
            return
        if self._pool is None:
            # Not fork: a copy of a process with running threads (torch's, say) can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_end_with_parent)
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool:
            raise Failure(
                f"one of {self.count} worker processes died, perhaps for lack of memory: give fewer workers"
            ) from None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: after a SIGKILL nobody else would tell it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
