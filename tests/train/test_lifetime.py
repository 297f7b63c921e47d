"""Every process ends: with its launcher, with its trainer, and soon after an error, whatever else hangs. What a test
leaves behind is seen by the fixture of all tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from jemb.app.cli import main
from jemb.core.records import Batch
from jemb.distributed import peers
from jemb.prepare.engine.executor import LocalExecutor
from jemb.run_folder import RunFolder
from jemb.train.checkpoints import Checkpoints
from jemb.train.module import EmbeddingModule
from tests.helpers.ranks import Meeting, context
from tests.helpers.training_runs import PATIENCE, Training, losses, read_lines

Start = Callable[..., Training]
train_file: Any = sys.modules["jemb.train.train"]  # `jemb.train.train` is the function


def lose_the_folder() -> None:
    """After the first checkpoint a file stands in the place of the run folder."""
    write = Checkpoints._write

    def lose(self: Checkpoints, *arguments: object) -> None:
        write(self, *arguments)  # type: ignore[arg-type]
        self.run.path.rename(self.run.path.with_name("elsewhere"))
        self.run.path.write_text("")

    Checkpoints._write = lose  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_while_loader_processes_live(
    tmp_path: Path, start: Start, pair_options: list[str], processes: int
) -> None:
    options = [*pair_options, "workers=1", "checkpoint_every=2"]
    training = start(tmp_path / "run", options, processes=processes, prelude=lose_the_folder)
    # 2: only another path can mend it; what the second process says is that it lost the first.
    assert training.wait() == [2, 1][:processes], training.output
    assert "ot a directory" in training.output


def launch(environment: dict[str, str], arguments: list[str]) -> None:
    """What torchrun's agent does: start a process, and wait for it."""
    os.environ.update(environment)
    if not (worker := os.fork()):
        os._exit(main(["train", *arguments]))
    Path(arguments[0].partition("=")[2]).with_name("worker").write_text(str(worker))
    os.wait()


@pytest.mark.slow
def test_a_launcher_that_is_killed_while_its_worker_waits_for_others(tmp_path: Path, pair_options: list[str]) -> None:
    """The second process never comes, and half an hour would be waited for it."""
    meeting = Meeting(2)
    launcher = context.Process(
        target=launch, args=(meeting.environment(0), [f"output={tmp_path / 'run'}", *pair_options])
    )
    launcher.start()
    worker = tmp_path / "worker"
    until(lambda: worker.exists() and worker.read_text() != "")
    pid = int(worker.read_text())
    assert launcher.is_alive()
    launcher.kill()
    launcher.join()
    until(lambda: not alive(pid))


def sleep_long(mark: Path) -> None:
    mark.touch()
    time.sleep(PATIENCE)


def prepare_long(folder: Path) -> None:
    with LocalExecutor(2) as executor:
        list(executor.run(sleep_long, [folder / "asleep-0", folder / "asleep-1"]))


@pytest.mark.slow
def test_a_prepare_job_that_is_killed(tmp_path: Path) -> None:
    job = context.Process(target=prepare_long, args=(tmp_path,))
    job.start()
    until(lambda: len(list(tmp_path.glob("asleep-*"))) == 2)
    job.kill()
    job.join()


def hang_on_the_way_out() -> None:
    """The second process fails at step 3, says so, and stays, as one does whose exit waits for something."""
    peers.GRACE = 0.2
    if os.environ["RANK"] == "1":
        step = EmbeddingModule.training_step

        def fail(self: EmbeddingModule, batch: Batch, batch_idx: int) -> Tensor:
            if batch.step == 2:
                raise RuntimeError("a broken part")
            return step(self, batch, batch_idx)

        def hang(self: peers.StatusBoard) -> None:
            os.kill(os.getpid(), signal.SIGSTOP)

        EmbeddingModule.training_step = fail  # type: ignore[method-assign]
        peers.StatusBoard.leave = hang  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_process_that_fails_and_does_not_end(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """The first one says why, and ends, though no collective tells it anything."""
    training = start(tmp_path / "run", pair_options, processes=2, prelude=hang_on_the_way_out)
    training.processes[0].join(PATIENCE)
    assert training.processes[0].exitcode == 1, training.output
    assert training.processes[1].is_alive()
    assert f"pid {training.pid_of(1)}) stopped: RuntimeError: a broken part. The same command" in training.output
    assert training.run.read_record()["status"] == "failed"
    assert len(read_lines(training.run.metrics)) == 2


def ask_before_the_first_step() -> None:
    decide = train_file.decide_start

    def ask(*arguments: Any) -> Any:
        found = decide(*arguments)
        os.kill(os.getpid(), signal.SIGUSR1)
        return found

    train_file.decide_start = ask


def ask_before_it_listens() -> None:
    join = train_file.joined_processes

    def ask(device: str, timeout_minutes: float) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return join(device, timeout_minutes)

    train_file.joined_processes = ask  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("prelude", "said"),
    [
        (ask_before_the_first_step, "stopped after step 0 of 20, asked by SIGUSR1"),
        (ask_before_it_listens, "asked by SIGTERM to stop, before"),
    ],
)
def test_asked_to_stop_before_the_first_step(
    tmp_path: Path,
    start: Start,
    pair_options: list[str],
    pair_run: RunFolder,
    processes: int,
    prelude: Callable[[], None],
    said: str,
) -> None:
    """All processes end with 0 and no step done; the same command does them all."""
    training = start(tmp_path / "run", pair_options, processes=processes, prelude=prelude)
    assert training.wait() == [0] * processes, training.output
    assert said in training.output
    assert not read_lines(training.run.metrics)
    if prelude is ask_before_the_first_step:
        assert training.run.read_record()["status"] == "stopped"
    run = start(tmp_path / "run", pair_options, processes=processes).succeed()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
