"""The commands as they stand in the README, in fresh interpreters: `python -m`, torchrun, SIGKILL, SIGTERM.

What goes on from where they were ended is forked from a process that has imported everything, as in test_resume.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jemb.run_folder import RunFolder
from tests.helpers.training_runs import Training, losses, read_lines, weights

ALONE = [sys.executable, "-m", "jemb.app.train"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "jemb.app.train",
]
SLOWED = """
import sys
if "jemb.app.train" in sys.orig_argv and "torch.distributed.run" not in sys.orig_argv:
    import time
    from jemb.train.module import EmbeddingModule
    step = EmbeddingModule.training_step
    EmbeddingModule.training_step = lambda *arguments: (time.sleep(0.2), step(*arguments))[1]
"""
"""Python runs a module of this name first of all: each of the 20 steps takes so long that no signal is too late."""


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the commands themselves are as they are, and their steps are slow."""
    folder = tmp_path_factory.mktemp("slowed")
    (folder / "sitecustomize.py").write_text(SLOWED)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            for child in children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_step(run: RunFolder, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while len(read_lines(run.metrics)) < step:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_torchrun_killed_and_repeated(
    tmp_path: Path,
    pair_options: list[str],
    pair_run: RunFolder,
    slowed: dict[str, str],
    started: list[subprocess.Popen[bytes]],
    start: Callable[..., Training],
) -> None:
    """torchrun with two processes, SIGKILL to its agent alone, the same options again: the one-process run's batches
    and losses."""
    command = [*TORCHRUN, f"output={tmp_path / 'run'}", *pair_options, "checkpoint_every=2", "workers=1"]
    run = RunFolder(tmp_path / "run")
    started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, env=slowed))
    wait_for_step(run, 5, started[0])
    workers = children(started[0].pid)
    started[0].kill()  # its workers, and the loaders of these, notice
    started[0].wait()
    deadline = time.monotonic() + 60
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(run.checkpoints()) > 0
    assert not run.model.exists()
    start(run.path, [*pair_options, "checkpoint_every=2", "workers=1"], processes=2).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)
    assert run.read_record()["starts"][1]["step"] > 0


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process(
    tmp_path: Path,
    pair_options: list[str],
    pair_run: RunFolder,
    slowed: dict[str, str],
    started: list[subprocess.Popen[bytes]],
) -> None:
    """SIGKILL to one of two processes: torchrun ends the other and starts both anew, from the checkpoint."""
    start = [*TORCHRUN[:4], "--max-restarts", "1", *TORCHRUN[4:]]
    command = [*start, f"output={tmp_path / 'run'}", *pair_options, "checkpoint_every=2"]
    run = RunFolder(tmp_path / "run")
    started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, env=slowed))
    wait_for_step(run, 5, started[0])
    os.kill(children(started[0].pid)[1], signal.SIGKILL)
    message = started[0].communicate(timeout=300)[1].decode()
    assert started[0].returncode == 0, message
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)
    assert [entry["world_size"] for entry in run.read_record()["starts"]] == [2, 2]
    assert run.read_record()["starts"][1]["step"] >= 4


@pytest.mark.slow
def test_python_terminated_and_repeated(
    tmp_path: Path,
    pair_options: list[str],
    pair_run: RunFolder,
    slowed: dict[str, str],
    started: list[subprocess.Popen[bytes]],
    start: Callable[..., Training],
) -> None:
    command = [*ALONE, f"output={tmp_path / 'run'}", *pair_options, "workers=1"]
    run = RunFolder(tmp_path / "run")
    started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, env=slowed))
    wait_for_step(run, 2, started[0])
    started[0].terminate()
    message = started[0].communicate(timeout=300)[1].decode()
    assert started[0].returncode == 0, message
    assert "stopped after step" in message
    assert not run.model.exists()
    start(run.path, [*pair_options, "workers=1"]).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert weights(run) == weights(pair_run)


@pytest.mark.slow
def test_a_batch_that_torchrun_cannot_divide(tmp_path: Path, pair_options: list[str]) -> None:
    """torchrun itself always ends with 1; the processes end with 2 after one line from the first."""
    command = [*TORCHRUN, f"output={tmp_path / 'run'}", *pair_options, "global_batch_size=9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    message = "jemb train: global_batch_size=9 cannot be divided among 2 processes: use a multiple of 2"
    assert done.stderr.splitlines().count(message) == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()
