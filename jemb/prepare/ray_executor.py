"""Tasks on a Ray cluster: one that is there already, or a local one for the time of the job.

All nodes must see the input and the output under the same paths, and have the same jemb installed. Ray runs a task of
a worker that died again on another; tasks can be done twice, so the result stays the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jemb.errors import Failure, InputError
from jemb.prepare.executor import AHEAD

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 5
"""Times a task is started again when its worker dies."""


class RayExecutor:
    """address: of a cluster, `auto` for the one this machine belongs to, None for a local one of `workers` CPUs (0: all
    cores). A context manager: leaves the cluster, or ends the local one. Raises `InputError` where there is none."""

    def __init__(self, address: str | None, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("executor=ray: Ray is not installed; pip install 'jemb[ray]'") from None
        # The name of Ray's own hook for processes started through `uv run` must not decide how workers start.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers or None}
        if not address:
            options["include_dashboard"] = False
            # A cluster in the environment (RAY_ADDRESS) is not what was asked for.
            options["address"] = "local"
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"ray.address={address}: no Ray cluster there ({error}); start one with `ray start`"
            ) from None
        self._ray = ray
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(
        self, function: Callable[[T], R], items: Sequence[T], *, gpu: bool = False, serial: bool = False
    ) -> Iterator[tuple[int, R]]:
        ray = self._ray
        if serial and not gpu:
            yield from ((number, function(item)) for number, item in enumerate(items))
            return
        gpus = 1 if gpu and ray.cluster_resources().get("GPU", 0) else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_in_folder)
        shared = ray.put((function, str(Path.cwd())))
        waiting: dict[Any, int] = {}
        numbers = iter(range(len(items)))
        while True:
            while len(waiting) < AHEAD * self.workers and (number := next(numbers, None)) is not None:
                waiting[task.remote(shared, items[number])] = number
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                yield waiting.pop(reference), self._get(reference)

    def _get(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from None  # what the task raised, as every executor gives it
        except errors.RayError as error:
            raise Failure(
                f"a Ray worker died {RETRIES + 1} times at one task ({type(error).__name__}), perhaps for lack of "
                "memory. What was done is kept: run the same command again"
            ) from None

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()


def _in_folder(shared: tuple[Callable[[Any], Any], str], item: Any) -> Any:
    """Run a task in the driver's folder, where relative paths of the input mean the same."""
    function, folder = shared
    if Path(folder).is_dir():
        os.chdir(folder)
    return function(item)
