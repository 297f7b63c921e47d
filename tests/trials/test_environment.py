"""Disks that are full or closed, files that may not be read, clocks that go back, output that nobody reads: each
command says so, leaves what was there, and goes on when it can."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.trials.fault import OUTPUT, Fault, check, digests, message_of, refused, repaired, run
from tests.trials.world import EVALUATE, EXPORT, INSPECT, PREPARE, RESUME, TOKENIZE, TRAIN

SCORE = EVALUATE.format("sts:eval/sts.jsonl")
WRITERS = {"prepare": PREPARE, "train": TRAIN, "tokenize": TOKENIZE, "evaluate": SCORE, "export": EXPORT}
OTHER = 65534
"""A user that nobody is."""


def powerless() -> None:
    """Root without its power over modes and owners, as any other user has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for capability in (1, 2, 3):  # dac_override, dac_read_search, fowner
        data[0] &= ~(1 << capability)
    assert libc.capset(header, data) == 0


def closed(name: str, mode: int = 0):
    """A file or folder of another user's, who lets others do this much."""

    def close(world: Path) -> None:
        if os.getuid():
            pytest.skip("only root can give a file to another user")
        path = world / name
        path.mkdir(exist_ok=True) if not path.exists() else None
        os.chown(path, OTHER, OTHER)
        path.chmod(mode)

    return close


def denied(name: str, command: str, place: str, mode: int = 0, changes: Sequence[str] = ()) -> Fault:
    said = place.split("/")[-1]
    return refused(name, command, closed(place, mode), said, prelude=powerless, changes=changes)


def clock_back() -> None:
    """From the second look on the clock is an hour behind."""
    real, asked = time.time, 0

    def then() -> float:
        nonlocal asked
        asked += 1
        return real() - (3600 if asked > 1 else 0)

    time.time = then


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def small_files(limit: int) -> None:
    """No file may grow beyond this: as a full disk, but for the name of the error."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def no_output() -> None:
    """Nobody reads what the command prints."""
    end, start = os.pipe()
    os.close(end)
    os.dup2(start, 1)


def closed_output() -> None:
    os.close(1)
    os.close(0)


def as_undisturbed(world: Path) -> None:
    weights = [(world / name / "model/model.safetensors").read_bytes() for name in (OUTPUT, "run")]
    assert weights[0] == weights[1]


FAULTS = [
    denied("prepare: input that may not be read", PREPARE, "raw/pairs.jsonl"),
    denied("prepare: folder that may not be read", PREPARE, "raw"),
    denied("prepare: output that may not be written", PREPARE, "out", 0o555),
    denied("train: shards that may not be read", TRAIN, "shards/answers/shard-000001.tar"),
    denied("train: index that may not be read", TRAIN, "shards/answers/shard-000001.idx.npy"),
    denied("train: manifest that may not be read", TRAIN, "shards/answers/manifest.json"),
    denied("train: folder that may not be read", TRAIN, "shards"),
    denied("train: output that may not be written", TRAIN, "out", 0o555),
    denied("train: run that may not be written", RESUME, "part", 0o555),
    denied("train: checkpoints that may not be written", RESUME, "part/checkpoints", 0o555, ["part"]),
    denied("train: record that may not be read", RESUME, "part/run.json"),
    denied("train: start that may not be read", f"{TRAIN} init=model", "model/model.safetensors"),
    denied("tokenize: output that may not be written", TOKENIZE, "out", 0o555),
    denied("evaluate: model that may not be read", SCORE, "model/config.json"),
    denied("evaluate: tasks that may not be read", SCORE, "eval/sts.jsonl"),
    denied("evaluate: output that may not be written", SCORE, "out", 0o555),
    denied("export: run that may not be read", EXPORT, "run/model/model.safetensors"),
    denied("export: output that may not be written", EXPORT.replace("=out", "=shut/out"), "shut", 0o555),
    denied("inspect: shards that may not be read", INSPECT, "shards/answers"),
    *(repaired(f"{name}: no home", command, None, environment={"HOME": "/nonexistent"}) for name, command in WRITERS.items()),
    *(repaired(f"{name}: no folder for temporary files", command, None, environment={"TMPDIR": "/nonexistent"}) for name, command in WRITERS.items()),
    *(repaired(f"{name}: a terminal of ASCII", command, None, environment={"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}) for name, command in WRITERS.items()),
    *(repaired(f"{name}: few open files", command, None, prelude=few_files) for name, command in WRITERS.items()),
    repaired("train: the clock goes back", TRAIN, None, prelude=clock_back, then=as_undisturbed),
    repaired("prepare: the clock goes back", PREPARE, None, prelude=clock_back),
    repaired("inspect: nobody reads", INSPECT, None, prelude=no_output),
    repaired("train: nobody reads", TRAIN, None, prelude=no_output, then=as_undisturbed),
    repaired("train: no output at all", TRAIN, None, prelude=closed_output, then=as_undisturbed),
    *(Fault(f"{name}: a limit on the size of files", WRITERS[name], None, 1, ("File too large",), prelude=partial(small_files, limit))
      for name, limit in {"prepare": 500, "train": 40_000, "tokenize": 200, "export": 20_000}.items()),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_environment(fault: Fault, world: Path) -> None:
    check(fault, world)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 12 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "none", disk], capture_output=True)
    if done.returncode:
        pytest.skip("may not mount a file system; the limit on the size of files stands for it")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, world: Path, small_disk: Path) -> None:
    """One message that names what could not be written; with room, the same command does the rest."""
    (world / "out").symlink_to(small_disk / "out")
    (small_disk / "out").mkdir()
    if name == "evaluate":
        (small_disk / "filler").write_bytes(bytes(8 << 10))
    command = WRITERS[name].replace("=out", "=out/it")
    before = digests(world, ["out"])
    outcome = run(world, command.split())
    assert outcome.code == 1, outcome.output
    assert "Traceback" not in outcome.output
    assert "No space left" in message_of(outcome, name)
    assert not outcome.left
    assert digests(world, ["out"]) == before
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert (again := run(world, command.split())).code == 0, again.output


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_read_only(name: str, world: Path, small_disk: Path) -> None:
    (world / "out").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    outcome = run(world, WRITERS[name].replace("=out", "=out/it").split())
    assert outcome.code in (1, 2), outcome.output
    assert "Traceback" not in outcome.output
    assert "/it" in message_of(outcome, name)
