"""Tasks on a Ray cluster: one that is there already, or a local one for the time of the job.

All nodes must see the input and the output under the same paths, and have the same jemb installed; that is looked at
before any work. Ray runs the tasks of a worker or node that died again on another; tasks can be done twice, so the
result stays the same.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jemb
from jemb.core.errors import Failure, InputError
from jemb.prepare.engine.executor import AHEAD, Executor

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 5
"""Times a task is started again when its worker dies."""
KNOCK = 10.0
"""Seconds in which somebody must answer at the cluster's address."""
QUIET = 60.0
"""Seconds without a finished task after which the CPUs are counted again: nodes come and go."""


class RayExecutor(Executor):
    """address: of a cluster, `auto` for the one this machine belongs to, None for a local one of `workers` CPUs (0: all
    cores). output: folder that all nodes of a cluster must see. A context manager: leaves the cluster, or ends the
    local one. Raises `InputError` where there is none, or where a node cannot do the work."""

    def __init__(self, address: str | None, workers: int, output: Path | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("executor=ray: Ray is not installed; pip install 'jemb[ray]'") from None
        # The name of Ray's own hook for processes started through `uv run` must not decide how workers start.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        if address:
            _knock(address)
        # Without an address a cluster in the environment (RAY_ADDRESS) is not what was asked for.
        alone = {"address": "local", "num_cpus": workers or None, "include_dashboard": False}
        options: dict[str, Any] = {"address": address} if address else alone
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise InputError(
                f"ray.address={address}: no Ray cluster there ({reason}); start one with `ray start`"
            ) from None
        self._ray = ray
        self._limit = workers
        if address and output is not None:
            try:
                self._check_nodes(output)
            except BaseException:
                ray.shutdown()
                raise

    @property
    def workers(self) -> int:
        """`workers`, or the CPUs of the cluster as it is now."""
        return self._limit or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

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
        ahead = AHEAD * self.workers
        while True:
            while len(waiting) < ahead and (number := next(numbers, None)) is not None:
                waiting[task.remote(shared, items[number])] = number
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=QUIET)
            for reference in done:
                yield waiting.pop(reference), self._get(reference)
            if not done:
                ahead = AHEAD * self.workers

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

    def _check_nodes(self, output: Path) -> None:
        """Ask every node whether it has this jemb and sees a file made here. A node that dies meanwhile is left out."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        mark = output / f".ray-{uuid.uuid4().hex}"
        mark.touch()
        try:
            asked = {}
            for node in (node for node in ray.nodes() if node["Alive"]):
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
                # A dictionary, for Ray's own annotations know two of its strategies only.
                there: dict[str, Any] = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], False)}
                asked[name] = ray.remote(num_cpus=0, **there)(_look).remote(str(mark))
            for name, answer in asked.items():
                try:
                    version, sees = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise InputError(f"Ray node {name} cannot run jemb: {reason}") from None
                except ray.exceptions.RayError:
                    continue
                if version != jemb.__version__:
                    raise InputError(
                        f"Ray node {name} has jemb {version}, here is {jemb.__version__}; install the same"
                    )
                if not sees:
                    raise InputError(
                        f"Ray node {name} does not see output={output} of this machine: give an output, and an input, "
                        "on a file system that all nodes have mounted under the same path"
                    )
        finally:
            mark.unlink()

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()


def _knock(address: str) -> None:
    """`InputError` where nobody listens at HOST:PORT: Ray itself would try for a quarter of an hour."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # `auto`
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"ray.address={address}: no Ray cluster there ({error}); start one with `ray start`, or correct the address"
        ) from None


def _look(mark: str) -> tuple[str, bool]:
    """(version of jemb, whether the file is there) on a node."""
    return jemb.__version__, Path(mark).exists()


def _in_folder(shared: tuple[Callable[[Any], Any], str], item: Any) -> Any:
    """Run a task in the driver's folder, where relative paths of the input mean the same."""
    function, folder = shared
    if Path(folder).is_dir():
        os.chdir(folder)
    return function(item)
