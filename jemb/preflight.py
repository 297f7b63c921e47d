"""Before a job on several nodes: is each of them fit to train, and do they reach each other?

Before: `launch/slurm_train.sh` runs one task a node (`app/preflight.py`). After: it starts training, or ends with one
line `node NAME: …` for each fault.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jemb.config import TrainConfig
from jemb.core.errors import Failure, InputError
from jemb.launch import Node
from jemb.shards import ShardCache, cache_home, open_datasets
from jemb.tables.places import is_url, to_local

GB = 10**9
FREE_OUTPUT, FREE_TEMPORARY = 5 * GB, GB // 2
"""Free bytes wanted in the run folder (a checkpoint has 12 bytes for each of the model's numbers) and for temporary
files."""
CLOCK = 5.0
"""Seconds that clocks may differ: times in the records stay in order, and credentials and leases valid."""


def preflight(config: TrainConfig, node: Node) -> Iterator[str]:
    """Lines of what speaks against training. On several nodes a task on every one of them must ask."""
    yield from (f"node {node.name}: {fault}" for fault in faults_here(config, node))
    if len(node.names) > 1:
        yield from faults_between(node, on_gpus=config.device != "cpu" and torch.cuda.is_available())


def faults_here(config: TrainConfig, node: Node) -> Iterator[str]:
    """What this node lacks by itself."""
    yield from _faults_of_gpus(config, node)
    if node.logs is not None and not Path(node.logs).is_dir():
        yield f"does not see {node.logs}, which the first node has made: it is not on a shared file system"
    output = to_local(config.output)
    yield from _faults_of_folder(cache_home() if is_url(output) else Path(output), "output", FREE_OUTPUT)
    yield from _faults_of_folder(Path(tempfile.gettempdir()), "temporary files", FREE_TEMPORARY)
    cache = ShardCache(config.cache_dir, config.cache_gb) if is_url(to_local(config.shards)) else None
    try:
        for reader in open_datasets(config.shards, cache, whole_shards=False).values():
            for row in (0, len(reader) - 1):
                reader.read(row)
    except (InputError, Failure, OSError) as error:
        yield f"cannot read the shards: {error}"


def faults_between(node: Node, *, on_gpus: bool) -> Iterator[str]:
    """Lines of what is wrong between the nodes. A task on every one of them must ask, for each waits for the others.
    Whether all have the same code, data and options, the processes of the run find out themselves."""
    at, timeout = f"{node.address}:{node.port}", timedelta(seconds=node.seconds)
    try:
        # The round trip to the first node that training also needs.
        store: Any = dist.TCPStore(node.address, node.port, None, not node.number, timeout, wait_for_workers=False)  # type: ignore[attr-defined]
    except RuntimeError as error:
        do = "cannot reach the first node" if node.number else "cannot listen"
        way = "look at names, routes and firewalls" if node.number else "MASTER_PORT takes another port"
        yield f"node {node.name}: {do} at {at}: {way} ({_short(error)})"
        return
    try:
        store.set_timeout(2 * timeout)  # the first node itself may wait that long for another one
        store.set(f"here/{node.number}", "")
        if node.number == 0:
            missing = list(_missing(store, node))
            store.set("all", "" if missing else repr(time.time()))
            yield from (f"node {name}: did not get through to {at} within {node.seconds:g} s" for name in missing)
        if clock := store.get("all"):  # the first node's, just now
            if abs(ahead := time.time() - float(clock)) > CLOCK:
                way = "ahead of" if ahead > 0 else "behind"
                yield f"node {node.name}: its clock is {abs(ahead):.0f} s {way} that of {node.names[0]}"
            yield from _connect(store, node, "nccl" if on_gpus else "gloo")
        store.set(f"left/{node.number}", "")
        if node.number == 0:  # which has the store, and leaves last
            with suppress(RuntimeError):
                store.wait([f"left/{number}" for number in range(len(node.names))], timedelta(seconds=10))
    except RuntimeError as error:
        yield f"node {node.name}: the other nodes no longer answer ({_short(error)})"


def _missing(store: Any, node: Node) -> Iterator[str]:
    end = time.monotonic() + node.seconds
    for number, name in enumerate(node.names):
        try:
            store.wait([f"here/{number}"], timedelta(seconds=max(0.1, end - time.monotonic())))
        except RuntimeError:
            yield name


def _connect(store: Any, node: Node, backend: str) -> Iterator[str]:
    """Every node talks to every other, by the means with which training will."""
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("connect", store),  # type: ignore[attr-defined]
            rank=node.number,
            world_size=len(node.names),
            timeout=timedelta(seconds=node.seconds),
        )
        dist.all_reduce(torch.ones(1, device="cuda" if backend == "nccl" else "cpu"))
    except RuntimeError as error:
        yield (
            f"node {node.name}: {backend} does not connect it with the others: {backend.upper()}_SOCKET_IFNAME names "
            f"the network between them, `ip address` lists all ({_short(error)})"
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _faults_of_gpus(config: TrainConfig, node: Node) -> Iterator[str]:
    seen = torch.cuda.device_count()
    if config.device == "cpu" or (config.device == "auto" and not seen and not node.has_gpus):
        return
    if seen < node.tasks:
        yield f"sees {seen} GPUs, but {node.tasks} processes are to train here, each on its own"
    for number in range(seen):
        try:
            torch.zeros(1, device=f"cuda:{number}").item()
        except RuntimeError as error:
            yield f"GPU {number} does not compute ({_short(error)})"


def _faults_of_folder(folder: Path, what: str, wanted: int) -> Iterator[str]:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield f"cannot write to {there} ({what}): {error.strerror}"
        return
    if free < wanted:
        yield f"{free / GB:.1f} GB free in {there} ({what}), at least {wanted / GB:g} GB wanted"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
