"""run.json and config.yaml: what was trained on what, by which versions; and whether a run may be continued."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
import yaml

import jemb
from jemb.config import Role, TrainConfig, roles
from jemb.core.errors import InputError
from jemb.core.files import open_lock, write_atomic, write_json
from jemb.data import BatchPlan
from jemb.lineage import public_name, stages_before
from jemb.public import each_text, without_secrets
from jemb.run_folder import HELD_HERE, RunFolder
from jemb.shards import ShardReader
from jemb.train.logs.trackers import check_installed, flat
from jemb.train.optim import schedule_of

ROLES = roles(TrainConfig)
LOOKED_AT = 64
"""Samples of each data set that are compared at the start, evenly spaced."""
log = logging.getLogger(__name__)

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "numpy")


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run folder, so that two trainers never write to it. Released by the system when the process dies."""
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        check_free(run)  # before anything is written: the folder may be somebody else's
        descriptor = open_lock(run.path / ".lock")
    except OSError as error:
        raise InputError(f"output={run.path}: cannot be used as a run folder ({error.strerror})") from None
    try:
        try:
            # Not flock: its locks outlive a killed trainer for as long as its loader processes live.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"{run.path}: another `jemb train` is writing to this run") from None
        # What killed trainers left. Ours alone: `jemb evaluate` may be writing its scores here right now.
        for path in (run.config, run.record, run.metrics, run.metrics_csv, run.samples, run.evaluations):
            for leftover in run.path.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        HELD_HERE.add(run.path.resolve())
        yield
    finally:
        HELD_HERE.discard(run.path.resolve())
        os.close(descriptor)


def check_free(run: RunFolder) -> None:
    """Raises InputError where `output` holds something that is no run's."""
    if run.record.exists():
        return
    strangers = sorted(path.name for path in run.path.iterdir() if path.name[0] != "." and path.name not in run.names)
    if strangers:
        raise InputError(f"output={run.path}: holds {strangers[0]}, which is no part of a run; use another folder")


def check_resumable(run: RunFolder, config: TrainConfig) -> None:
    """Raises InputError where `output` holds something else, or a started run with other options, or where a tracker is
    not installed."""
    check_installed(config.trackers)
    check_free(run)
    if not run.checkpoints():
        return
    if not run.config.is_file():
        raise InputError(f"output={run.path}: has checkpoints but no {run.config.name}; use another output")
    before, now = flat(run.read_config()), flat(each_text(without_secrets, asdict(config)))
    changed = [
        f"  {name}: {before.get(name)} before, {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and ROLES.get(name, ROLES.get(name.partition(".")[0])) in (None, Role.RESULT)
    ]
    if changed:
        raise InputError(
            f"output={run.path} holds a run with other options; restore them, or use another output:\n"
            + "\n".join(changed)
        )


def write_start(
    run: RunFolder,
    config: TrainConfig,
    plan: BatchPlan,
    readers: Mapping[str, ShardReader],
    *,
    step: int,
    max_steps: int,
    layout: Mapping[str, Any],
) -> None:
    """Record that the run starts, or starts again, at `step`."""
    before = run.read_record() if run.record.exists() else {}
    if before.get("status") == "running":
        alive = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.last_alive()))
        log.warning("%s: the start before this one was killed; it was last alive on %s", run.path, alive)
    source = config.init or config.model.path
    record = {
        "id": before.get("id", uuid.uuid4().hex[:12]),
        "jemb": jemb.__version__,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": git_commit(Path(jemb.__file__).parent),
        "objective": config.objective,
        "init": source,
        "started_from": before.get("started_from", public_name(source)),
        "earlier": before["earlier"] if "earlier" in before else stages_before(source),
        "plan_fingerprint": plan.fingerprint,
        "datasets": {
            name: {
                "num_samples": len(reader),
                "kind": reader.manifest.kind,
                "objective": config.objectives.get(name)
                or (reader.manifest.kind if config.objective == "auto" else config.objective),
                "weight": config.weights.get(name, 1.0),
                "share": plan.dataset_shares[name],
                "fingerprint": reader.manifest.fingerprint,
                "stages": [asdict(stage) for stage in reader.manifest.stages],
                "license": reader.manifest.source.get("license"),
            }
            for name, reader in readers.items()
        },
        "starts": [*before.get("starts", []), {"step": step, "time": time.time(), **layout}],
        "resolved": {"max_steps": max_steps, "warmup_steps": schedule_of(config, max_steps).warmup, **layout},
        "status": "running",
        "steps": step,
        "max_steps": max_steps,
        "model_step": before.get("model_step"),
        "model_chosen": before.get("model_chosen"),
        "stopped_early": None,
    }
    options = each_text(without_secrets, asdict(config))
    write_atomic(run.config, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
    write_json(run.record, each_text(without_secrets, record))


def write_end(run: RunFolder, steps: int, status: str, **more: Any) -> None:
    """Record how far this start came: `finished`, `stopped` or `failed`. more: fields of a finished run."""
    write_json(run.record, {**run.read_record(), "status": status, "steps": steps, **more})


def facts_of(config: TrainConfig, readers: Mapping[str, ShardReader], plan: BatchPlan) -> dict[str, str]:
    """All on which the course of a run depends, in words, the data sets first."""
    facts = {}
    for name, reader in readers.items():
        facts[f"data set {name}"] = f"{len(reader)} samples with fingerprint {reader.manifest.fingerprint[:16]}"
        facts[f"texts of data set {name}"] = look_at(reader)
    for name, value in asdict(config).items():
        if ROLES[name] is not Role.MACHINE:
            facts[name] = str(value)
    return {**facts, "batch plan": plan.fingerprint[:16], **versions(), "code of jemb": code_hash()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that the numbers depend on, of which deepspeed need not be there."""
    names = (*PACKAGES, "safetensors", "deepspeed")
    found = {name: next((one.version for one in metadata.distributions(name=name)), "none") for name in names}
    return {"python": platform.python_version(), **found}


def code_hash() -> str:
    """16 hex digits of all code and values that training runs on."""
    digest = hashlib.sha256()
    for folder in (Path(jemb.__file__).parent, Path(str(resources.files("jemb_conf")))):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".j2")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def look_at(reader: ShardReader, count: int = LOOKED_AT) -> str:
    """16 hex digits of `count` evenly spaced samples as they are on disk: the fingerprint is only what the manifest
    says."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in reader.spread(min(count, len(reader))):
        if isinstance(sample, InputError):
            digest.update(b"damaged")  # reported at the step that needs it
            continue
        for text in (sample.key, sample.query, sample.positive, *sample.negatives):
            digest.update(len(text).to_bytes(8, "little") + text.encode(errors="surrogatepass"))
    return digest.hexdigest()


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the processor where training is on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout that `folder` is in; None for an installed package."""
    found = None
    with suppress(OSError, subprocess.SubprocessError):
        for command in (["ls-files", "--error-unmatch", "__init__.py"], ["rev-parse", "HEAD"]):
            git = ["git", "-C", str(folder), *command]
            found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        return found
    return None
