"""The commands as they stand in the README, in fresh interpreters: `python -m`, torchrun, SIGKILL, SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import Training, losses, read_lines, weights

from jemb.run_folder import RunFolder

STEPS = "max_steps=150"
"""Enough for a signal to find the run at work on a busy machine."""
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


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """The undisturbed run in one process."""
    return Training(tmp_path_factory.mktemp("undisturbed") / "long", [*pair_options, STEPS]).succeed()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_torchrun_killed_and_repeated(
    tmp_path: Path, pair_options: list[str], reference: RunFolder, started: list[subprocess.Popen[bytes]]
) -> None:
    """torchrun with two processes, SIGKILL to all, the same command again: the one-process run's batches and losses."""
    command = [*TORCHRUN, f"output={tmp_path / 'run'}", *pair_options, STEPS, "checkpoint_every=2"]
    run = RunFolder(tmp_path / "run")
    started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL))
    deadline = time.monotonic() + 300
    while len(read_lines(run.metrics)) < 5:
        assert time.monotonic() < deadline
        assert started[0].poll() is None
        time.sleep(0.005)
    for children in Path(f"/proc/{started[0].pid}/task").glob("*/children"):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    os.killpg(started[0].pid, signal.SIGKILL)
    started[0].wait()
    assert len(run.checkpoints()) > 0
    assert not run.model.exists(), "killed too late for this test"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert run.samples.read_bytes() == reference.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(reference), abs=1e-5)
    assert run.read_record()["starts"][1]["step"] > 0


def test_python_terminated_and_repeated(
    tmp_path: Path, pair_options: list[str], reference: RunFolder, started: list[subprocess.Popen[bytes]]
) -> None:
    command = [*ALONE, f"output={tmp_path / 'run'}", *pair_options, STEPS, "workers=1"]
    run = RunFolder(tmp_path / "run")
    started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE))
    deadline = time.monotonic() + 300
    while len(read_lines(run.metrics)) < 2:
        assert time.monotonic() < deadline
        assert started[0].poll() is None
        time.sleep(0.002)
    started[0].terminate()
    message = started[0].communicate(timeout=300)[1].decode()
    assert started[0].returncode == 0, message
    assert "stopped after step" in message
    assert not run.model.exists(), "terminated too late for this test"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert run.samples.read_bytes() == reference.samples.read_bytes()
    assert weights(run) == weights(reference)


def test_a_batch_that_torchrun_cannot_divide(tmp_path: Path, pair_options: list[str]) -> None:
    """torchrun itself always ends with 1; the processes end with 2 after one line from the first."""
    command = [*TORCHRUN, f"output={tmp_path / 'run'}", *pair_options, "global_batch_size=9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    message = "jemb train: global_batch_size=9 cannot be divided among 2 processes: use a multiple of 2"
    assert done.stderr.splitlines().count(message) == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()
