"""Real processes that run `jemb train` the way a user or torchrun starts it, forked from one that has imported it all.

A fresh interpreter imports for ten seconds before it trains for one. These are processes of their own nevertheless:
they can be killed, and signals reach them and not the tests. `test_launchers.py` starts the real commands.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch import Tensor

from jemb.core.records import Batch
from jemb.run_folder import RunFolder
from tests.helpers.ranks import Meeting, context, write_to

SMALL = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "workers=0"]
PATIENCE = 120
"""Seconds until a process that does not end fails its test; the machine may be busy."""


def slowly(last: int | None = None) -> None:
    """A prelude: each step takes 50 ms longer, so that a signal still finds the run at work on a busy machine.

    Step `last`, where it is given, is done and none after it: the run waits there for its signal."""
    from jemb.train.module import EmbeddingModule

    step = EmbeddingModule.training_step

    def slow_step(self: EmbeddingModule, batch: Batch, batch_idx: int) -> Tensor:
        time.sleep(PATIENCE if last is not None and self.first_step + self.trainer.global_step >= last else 0.05)
        return step(self, batch, batch_idx)

    EmbeddingModule.training_step = slow_step


def _main(
    arguments: Sequence[str], environment: Mapping[str, str], output: Path, prelude: Callable[[], None] | None
) -> None:
    os.setsid()  # a process group of its own, as a shell gives a command
    os.environ.update(environment)
    # A child of a fork server starts its own children by one, too; a command's loader processes are forked.
    multiprocessing.set_start_method("fork", force=True)
    write_to(output)
    from jemb.app.cli import main

    if prelude:
        prelude()
    sys.exit(main(["train", *arguments]))


class Training:
    """One start of `jemb train` in `processes` processes (with torchrun's environment where there are several).

    pipe: what it writes goes to a pipe instead of a file. prelude: called in each process before the command; must be
    importable. own: further arguments of single processes, by rank. environments: set in each process,
    by rank, over what torchrun says.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        processes: int = 1,
        *,
        pipe: bool = False,
        prelude: Callable[[], None] | None = None,
        own: Mapping[int, Sequence[str]] | None = None,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.run = RunFolder(folder)
        self._output = folder.with_name(f"{folder.name}.{time.time_ns()}.out")
        if pipe:
            os.mkfifo(self._output)
            self._pipe = os.open(self._output, os.O_RDONLY | os.O_NONBLOCK)
        else:
            self._output.touch()
        self._meeting = Meeting(processes)
        self.processes: list[BaseProcess] = []
        for rank in range(processes):
            facts = self._meeting.environment(rank)
            if environments:
                facts |= environments[rank]
            mine = [f"output={folder}", *arguments, *(own or {}).get(rank, [])]
            process = context.Process(target=_main, args=(mine, facts, self._output, prelude))
            process.start()
            self.processes.append(process)

    @property
    def pid(self) -> int:
        return self.pid_of(0)

    def pid_of(self, rank: int) -> int:
        pid = self.processes[rank].pid
        assert pid is not None
        return pid

    @property
    def output(self) -> str:
        """What all processes wrote to stdout and stderr so far."""
        return self._output.read_text(errors="replace")

    def close_pipe(self) -> None:
        """The reader goes away: the next write fails."""
        os.close(self._pipe)
        self._output.unlink()
        self._output.touch()

    def wait(self) -> list[int | None]:
        """The processes' exit codes; a negative one names the signal that ended it."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                self.kill()
                raise AssertionError(f"training did not end within {PATIENCE} s:\n{self.output}")
        return [process.exitcode for process in self.processes]

    def succeed(self) -> RunFolder:
        """Wait for all processes to end with 0."""
        codes = self.wait()
        assert not any(codes), f"exit codes {codes}:\n{self.output}"
        return self.run

    def wait_for_step(self, step: int) -> None:
        """Until `step` stands in metrics.jsonl."""
        deadline = time.monotonic() + PATIENCE
        while len(read_lines(self.run.metrics)) < step:
            assert self.processes[0].is_alive(), f"ended before step {step}:\n{self.output}"
            assert time.monotonic() < deadline, f"step {step} not reached:\n{self.output}"
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL to every process."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(run: RunFolder) -> list[float]:
    lines = read_lines(run.metrics)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "each step once, in order"
    return [line["loss"] for line in lines]


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()
