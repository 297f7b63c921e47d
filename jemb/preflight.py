"""Before a job on several nodes: is each of them fit to train, do they reach each other, are they all the same?

Before: `launch/slurm_train.sh` runs one task a node, `python -m jemb.app.preflight` with the options of `jemb train`.
After: it starts training, or ends with one line `node NAME: …` for each fault.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import jemb
from jemb.config import TrainConfig
from jemb.core.errors import Failure, InputError
from jemb.distributed.agree import differences
from jemb.launch import NodeInfo
from jemb.shards import ShardCache, ShardReader, cache_home, open_datasets
from jemb.tables.places import is_url, to_local

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "numpy", "safetensors", "deepspeed")
"""Whose versions must be the same everywhere."""
GB = 10**9
FREE_OUTPUT, FREE_TEMPORARY = 5 * GB, GB // 2
"""Free bytes wanted in the run folder (a checkpoint has 12 bytes for each of the model's numbers) and for temporary
files."""
CLOCK = 5.0
"""Seconds that clocks may differ: times in the records stay in order, and credentials and leases valid."""


def preflight(config: TrainConfig, node: NodeInfo) -> list[str]:
    """What speaks against training, one line `node NAME: …` for each fault; empty where nothing does.

    A task on every node must call it. The first one's answer has the faults of all, another's what it cannot tell it.
    """
    facts = facts_of(config)
    wrong = list(faults_here(config, node))
    mine = node.nodes[node.number]
    if len(node.nodes) == 1:
        return _named(mine, wrong)
    try:
        store: Any = _meet(node)
    except RuntimeError as error:
        do = "cannot listen" if node.is_first else "cannot reach the first node"
        way = "MASTER_PORT takes another port" if node.is_first else "look at names, routes and firewalls"
        return _named(mine, [*wrong, f"{do} at {node.address}:{node.port}: {way} ({_short(error)})"])
    try:
        faults = _judge(store, node, facts, wrong) if node.is_first else _report(store, node, facts, wrong)
        if store.get("verdict") == b"good":
            faults = _named(mine, _connect(store, node, facts))
        _leave(store, node)
    except RuntimeError as error:
        faults = _named(mine, [f"the other nodes no longer answer ({_short(error)})"])
    return faults


def facts_of(config: TrainConfig) -> dict[str, str]:
    """What must be the same on all nodes."""
    facts = {"code of jemb": code_hash(), "python": platform.python_version(), "device": _device(config)}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            facts[name] = metadata.version(name)
    with suppress(InputError, Failure, OSError):  # a fault, told as such
        for name, reader in _open(config).items():
            facts[f"data set {name}"] = reader.manifest.fingerprint[:16]
    return facts


def code_hash() -> str:
    """16 hex digits of all code and values that training runs on."""
    digest = hashlib.sha256()
    for folder in (Path(jemb.__file__).parent, Path(str(resources.files("jemb_conf")))):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".j2")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def faults_here(config: TrainConfig, node: NodeInfo) -> Iterator[str]:
    """What this node lacks by itself."""
    yield from _faults_of_gpus(config, node)
    if node.logs is not None and not node.logs.is_dir():
        yield f"does not see {node.logs}, which the first node has made: it is not on a shared file system"
    output = to_local(config.output)
    yield from _faults_of_folder(cache_home() if is_url(output) else Path(output), "output", FREE_OUTPUT)
    yield from _faults_of_folder(Path(tempfile.gettempdir()), "temporary files", FREE_TEMPORARY)
    try:
        for reader in _open(config).values():
            for row in (0, len(reader) - 1):
                reader.read(row)
    except (InputError, Failure, OSError) as error:
        yield f"cannot read the shards: {error}"


def _open(config: TrainConfig) -> dict[str, ShardReader]:
    cache = ShardCache(config.cache_dir, config.cache_gb) if is_url(to_local(config.shards)) else None
    return open_datasets(config.shards, cache, whole_shards=False)


def _faults_of_gpus(config: TrainConfig, node: NodeInfo) -> Iterator[str]:
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


def _device(config: TrainConfig) -> str:
    if config.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda, {torch.cuda.get_device_name(0)}"


def _meet(node: NodeInfo) -> Store:
    """The key-value store in which all nodes leave words: the round trip to the first node that training also needs."""
    timeout = timedelta(seconds=node.seconds)
    store = dist.TCPStore(node.address, node.port, None, node.is_first, timeout, wait_for_workers=False)  # type: ignore[attr-defined]
    store.set_timeout(2 * timeout)  # the first node itself may wait that long for another one
    return store


def _report(store: Any, node: NodeInfo, facts: Mapping[str, str], wrong: list[str]) -> list[str]:
    """Tell the first node, which speaks for all, what this one is like."""
    store.set(f"here/{node.number}", "")
    ahead = time.time() - float(store.get("clock"))
    store.set(f"report/{node.number}", json.dumps({"facts": facts, "wrong": wrong, "ahead": ahead}))
    return []


def _judge(store: Any, node: NodeInfo, facts: Mapping[str, str], wrong: list[str]) -> list[str]:
    """The faults of all nodes: the first one's own part."""
    first, *others = node.nodes
    faults = _named(first, wrong)
    end = time.monotonic() + node.seconds
    here = {}
    for number, name in enumerate(others, 1):
        try:
            store.wait([f"here/{number}"], timedelta(seconds=max(0.1, end - time.monotonic())))
            here[number] = name
        except RuntimeError:
            faults += _named(name, [f"did not get through to {node.address}:{node.port} within {node.seconds:g} s"])
    store.set("clock", repr(time.time()))
    for number, name in here.items():
        report = json.loads(store.get(f"report/{number}"))
        faults += _named(name, [*report["wrong"], *_differences(first, facts, report)])
    store.set("verdict", "bad" if faults else "good")
    return faults


def _leave(store: Any, node: NodeInfo) -> None:
    """The first node, which has the store, leaves last."""
    store.set(f"left/{node.number}", "")
    if node.is_first:
        with suppress(RuntimeError):
            store.wait([f"left/{number}" for number in range(len(node.nodes))], timedelta(seconds=10))


def _differences(first: str, facts: Mapping[str, str], report: Mapping[str, Any]) -> list[str]:
    """In what a node's report is unlike the facts of the node called `first`."""
    found = [
        f"{name} is {theirs}, on {first} it is {ours}"
        for name, ours, theirs in differences(facts, report["facts"])
        if not (name.startswith("data set") and report["wrong"])
    ]
    if abs(report["ahead"]) > CLOCK:
        way = "ahead of" if report["ahead"] > 0 else "behind"
        found.append(f"its clock is {abs(report['ahead']):.0f} s {way} that of {first}")
    return found


def _connect(store: Store, node: NodeInfo, facts: Mapping[str, str]) -> Iterator[str]:
    """Every node talks to every other, by the means with which training will."""
    backend = "nccl" if facts["device"].startswith("cuda") else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("all", store),  # type: ignore[attr-defined]
            rank=node.number,
            world_size=len(node.nodes),
            timeout=timedelta(seconds=node.seconds),
        )
        dist.all_reduce(torch.ones(1, device="cuda" if backend == "nccl" else "cpu"))
    except RuntimeError as error:
        yield (
            f"{backend} does not connect it with the others: {backend.upper()}_SOCKET_IFNAME names the network between "
            f"them, `ip address` lists all ({_short(error)})"
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _named(node: str, faults: Iterable[str]) -> list[str]:
    return [f"node {node}: {fault}" for fault in faults]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
