"""A run that is killed or stopped, at whatever moment, ends as the undisturbed one: to the last byte."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jemb.core.errors import InputError
from jemb.model import Encoder, load_encoder
from jemb.run_folder import OPTIMIZER, WEIGHTS, RunFolder
from jemb.train.checkpoints import Checkpoints
from tests.helpers.training_runs import Training, losses, read_lines, slowly, weights

Start = Callable[..., Training]


@pytest.fixture
def often(pair_options: list[str]) -> list[str]:
    """The undisturbed run's options, but for a checkpoint every third step."""
    return [*pair_options, "checkpoint_every=3"]


def assert_undisturbed(run: RunFolder, reference: RunFolder) -> None:
    assert run.samples.read_bytes() == reference.samples.read_bytes()
    assert losses(run) == losses(reference)
    assert weights(run) == weights(reference)
    with run.metrics_csv.open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [line["step"] for line in read_lines(run.metrics)]
    assert run.read_record()["status"] == "finished"


def test_killed_again_and_again(tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder) -> None:
    """SIGKILL at three random steps, by then with loader processes; then to the end."""
    for step in sorted(random.choices(range(1, 19), k=3)):
        print("killing at step", step)
        training = start(tmp_path / "run", [*often, "workers=1"], prelude=slowly)
        training.wait_for_step(step)
        training.kill()
    assert_undisturbed(start(tmp_path / "run", often).succeed(), pair_run)


def test_killed_before_the_first_checkpoint(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    training = start(tmp_path / "run", pair_options, prelude=slowly)
    training.wait_for_step(2)
    training.kill()
    assert not training.run.checkpoints()
    assert_undisturbed(start(tmp_path / "run", pair_options).succeed(), pair_run)


@pytest.mark.slow
def test_killed_while_the_folder_is_made(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    """A kill between two files of the start must not leave a folder that the same command refuses."""
    whole = start(tmp_path / "whole", pair_options).succeed()
    for kept in (["start"], ["start", "config.yaml"]):
        cut = tmp_path / "-".join(kept)
        cut.mkdir()
        for name in kept:
            source = whole.path / name
            shutil.copytree(source, cut / name) if source.is_dir() else shutil.copy(source, cut / name)
        assert_undisturbed(start(cut, pair_options).succeed(), pair_run)


@pytest.mark.slow
def test_killed_while_writing(tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder) -> None:
    """A checkpoint without its name yet, half a log line, and lines of steps after the last checkpoint."""
    training = start(tmp_path / "run", often, prelude=slowly)
    training.wait_for_step(8)
    training.kill()
    run = training.run
    step, folder = run.checkpoints()[-1]
    partial = run.checkpoint_folder / f".step-{step + 1:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    (run.path / ".run.json.1234567.tmp").write_text('{"half')
    (run.path / ".scores.json.1234567.tmp").write_text("{}")
    for file in (run.metrics, run.samples, run.metrics_csv):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines) + lines[-1][:20])
    finished = start(tmp_path / "run", often).succeed()
    assert_undisturbed(finished, pair_run)
    assert not list(run.checkpoint_folder.glob(".*")), "nothing half-written stays behind"
    left = sorted(path.name for path in run.path.glob(".*"))
    assert left == [".lock", ".scores.json.1234567.tmp"], "what jemb evaluate writes is not for us to remove"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damage"),
    [(WEIGHTS, cut), (WEIGHTS, flip), (OPTIMIZER, flip), (OPTIMIZER, Path.unlink), ("position.json", cut)],
)
def test_a_damaged_checkpoint_is_put_aside(
    tmp_path: Path,
    start: Start,
    often: list[str],
    pair_run: RunFolder,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    training = start(tmp_path / "run", often, prelude=slowly)
    training.wait_for_step(8)
    training.kill()
    damaged = training.run.checkpoints()[-1][1]
    damage(damaged / file)
    again = start(tmp_path / "run", often)
    assert_undisturbed(again.succeed(), pair_run)
    assert f"{file}: not " in again.output
    assert "going on from the checkpoint before it" in again.output
    assert len(list(damaged.parent.glob("damaged-*"))) == 1


def test_logs_that_a_power_cut_has_damaged(tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder) -> None:
    """A line of NULs and lost lines behind the checkpoint: said and kept; the training is the undisturbed one."""
    training = start(tmp_path / "run", often, prelude=slowly)
    training.wait_for_step(8)
    training.kill()
    run = training.run
    for log in (run.metrics, run.samples):
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join([lines[0], bytes(len(lines[1])) + b"\n", lines[2], lines[3][:20]]))
    damaged = run.metrics.read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        run.read_metrics()
    last = run.checkpoints()[-1][0]
    again = start(tmp_path / "run", often)
    assert weights(again.succeed()) == weights(pair_run)
    assert f"{run.metrics}: line 2 cannot be read, 1 in all" in again.output
    lost = f"has no lines of {last - 2} of the steps up to the checkpoint's, {last} (the first is step 2)"
    assert f"{run.metrics}: {lost}" in again.output
    assert [line["step"] for line in read_lines(run.metrics)] == [1, 3, *range(last + 1, 21)]
    (kept,) = run.path.glob("damaged-metrics.jsonl-*")
    assert kept.read_bytes() == damaged


def test_only_the_newest_checkpoints_stay(tmp_path: Path, start: Start, often: list[str]) -> None:
    run = start(tmp_path / "run", [*often, "keep_checkpoints=3"]).succeed()
    assert [step for step, _ in run.checkpoints()] == [15, 18, 20]


@pytest.mark.slow
def test_killed_alone_continued_by_two(tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder) -> None:
    """And back to one process after that."""
    for processes, step in ((1, 5), (2, 11)):
        training = start(tmp_path / "run", often, processes=processes, prelude=slowly)
        training.wait_for_step(step)
        training.kill()
    run = start(tmp_path / "run", often).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)
    starts = run.read_record()["starts"]
    assert [entry["world_size"] for entry in starts] == [1, 2, 1]
    assert [entry["step"] for entry in starts] == sorted(entry["step"] for entry in starts)


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """The undisturbed run on pairs, in two processes."""
    return Training(tmp_path_factory.mktemp("undisturbed") / "two", pair_options, processes=2).succeed()


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if seed < 4 else pytest.mark.soak) for seed in range(34)]
)
def test_crashes(
    tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder, run_of_two: RunFolder, seed: int
) -> None:
    """Killed at one to three random moments, one process or all of them; then to the end. Every third run goes from
    two processes to one to four, and the others stay at two."""
    draw = random.Random(seed)
    worlds = [2, 1, 4] if seed % 3 == 2 else [2] * draw.randint(1, 3)
    for last, world in zip((14, 16, 18), worlds, strict=False):
        training = start(tmp_path / "run", often, processes=world, prelude=partial(slowly, last))
        before = len(read_lines(training.run.metrics))
        if joined := draw.random() < 0.5:
            training.wait_for_step(max(before + 1, draw.randint(1, last - 1)))
        else:
            time.sleep(draw.uniform(0, 2))  # also while they join or load; those left are killed as torchrun does it
        alone = world > 1 and draw.random() < 0.5
        victims = [draw.randrange(world)] if alone else range(world)
        print(f"killing {list(victims)} of {world} after step {len(read_lines(training.run.metrics))}")
        assert all(training.processes[rank].is_alive() for rank in victims)
        for rank in victims:
            training.processes[rank].kill()
        if joined:
            assert all(training.wait()), "the others notice, and end"
        training.kill()
    run = start(tmp_path / "run", often, processes=worlds[-1]).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    if set(worlds) == {2}:
        assert_undisturbed(run, run_of_two)
    else:
        assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)
        assert {entry["world_size"] for entry in run.read_record()["starts"]} >= {4}


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder, number: int, to_group: bool
) -> None:
    """One checkpoint, exit code 0, and the same command goes on. Slurm signals the loader processes, too."""
    options = [*pair_options, "workers=1"]
    training = start(tmp_path / "run", options, prelude=slowly)
    training.wait_for_step(4)
    os.killpg(training.pid, number) if to_group else os.kill(training.pid, number)
    run = training.succeed()
    done = len(read_lines(run.metrics))
    assert done < 20, "the signal came too late for this test"
    assert [step for step, _ in run.checkpoints()] == [done]
    assert (run.read_record()["status"], run.read_record()["steps"]) == ("stopped", done)
    assert "same command continues" in training.output
    assert not run.model.exists()
    assert_undisturbed(start(tmp_path / "run", options).succeed(), pair_run)


def test_one_of_two_processes_asked_to_stop(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    """The processes agree on the step; none waits for another."""
    training = start(tmp_path / "run", pair_options, processes=2, prelude=slowly)
    training.wait_for_step(3)
    assert training.processes[1].pid
    os.kill(training.processes[1].pid, signal.SIGTERM)
    run = training.succeed()
    done = len(read_lines(run.metrics))
    assert [step for step, _ in run.checkpoints()] == [done]
    run = start(tmp_path / "run", pair_options, processes=2).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)


def terminate_just_before_training() -> None:
    """Have the signal come when Lightning has set up its handlers, and training has not begun."""
    begin = Checkpoints.on_train_start

    def on_train_start(self: Checkpoints, *arguments: Any) -> None:
        if os.environ.get("RANK", "0") == "0":
            signal.raise_signal(signal.SIGTERM)
        begin(self, *arguments)

    Checkpoints.on_train_start = on_train_start


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_stop_while_training_is_set_up(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder, processes: int
) -> None:
    run = start(tmp_path / "run", pair_options, processes, prelude=terminate_just_before_training).succeed()
    done = len(read_lines(run.metrics))
    assert done < 20
    assert (run.read_record()["status"], run.read_record()["steps"]) == ("stopped", done)
    run = start(tmp_path / "run", pair_options, processes).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()


@pytest.mark.slow
def test_one_of_two_processes_killed(tmp_path: Path, start: Start, often: list[str], pair_run: RunFolder) -> None:
    """The other one ends with an error instead of waiting, and the same command goes on."""
    training = start(tmp_path / "run", [*often, "max_steps=20"], processes=2, prelude=slowly)
    training.wait_for_step(5)
    training.processes[1].kill()
    codes = training.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 2)
    run = start(tmp_path / "run", often, processes=2).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)


def test_interrupted_by_the_keyboard(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    training = start(tmp_path / "run", [*pair_options, "workers=1"], prelude=slowly)
    training.wait_for_step(4)
    os.killpg(training.pid, signal.SIGINT)  # a terminal signals the whole group
    assert training.wait() == [130]
    assert "Traceback" not in training.output
    assert len(training.run.checkpoints()) == 1
    assert_undisturbed(start(tmp_path / "run", pair_options).succeed(), pair_run)


@pytest.mark.slow
def test_dropout_is_drawn_as_in_the_undisturbed_run(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    options = [*pair_options, "model.dropout=0.2"]
    undisturbed = start(tmp_path / "undisturbed", options).succeed()
    assert losses(undisturbed) != losses(pair_run), "dropout acts"
    training = start(tmp_path / "run", [*options, "checkpoint_every=3"], prelude=slowly)
    training.wait_for_step(7)
    training.kill()
    run = start(tmp_path / "run", [*options, "checkpoint_every=3"]).succeed()
    assert_undisturbed(run, undisturbed)


def test_a_finished_run_stays_as_it_is(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    run = start(tmp_path / "run", pair_options).succeed()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.path.rglob("*") if path.is_file()}
    again = start(tmp_path / "run", pair_options)
    again.succeed()
    assert "already finished" in again.output
    for path, (written, content) in before.items():
        if path not in (run.record, run.config):
            assert path.stat().st_mtime_ns == written, path
            assert path.read_bytes() == content, path
    assert run.read_record()["status"] == "finished"
    run.model.rename(tmp_path / "kept")  # killed just before the model was written
    run = start(tmp_path / "run", pair_options).succeed()
    assert weights(run) == (tmp_path / "kept" / "model.safetensors").read_bytes()


def test_more_steps_for_a_finished_run(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    """Steps 13 to 20 on top of a finished run of 12: same batches, and the new schedule's learning rates."""
    short = start(tmp_path / "run", [*pair_options, "max_steps=12"]).succeed()
    old = weights(short)
    run = start(tmp_path / "run", pair_options).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert weights(run) != old
    rates, expected = ([line["learning_rate"] for line in read_lines(r.metrics)] for r in (run, pair_run))
    assert rates[12:] == pytest.approx(expected[12:])


def kill_before_the_model_is_written() -> None:
    """Where the run folder has its start already, the model of the end is all that is saved."""
    Encoder.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_killed_before_the_longer_run_wrote_its_model(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """The model of the shorter run must not pass for the longer one's, while that goes on or when it is done."""
    short = weights(start(tmp_path / "run", [*pair_options, "max_steps=4"]).succeed())
    longer = [*pair_options, "max_steps=6"]
    training = start(tmp_path / "run", longer, prelude=kill_before_the_model_is_written)
    assert training.wait() == [-signal.SIGKILL]
    assert [step for step, _ in training.run.checkpoints()] == [4, 6]
    run = start(tmp_path / "run", longer).succeed()
    assert weights(run) != short
    state = load_file(run.checkpoints()[-1][1] / WEIGHTS)
    for name, value in load_encoder(str(run.path)).state_dict().items():
        assert torch.equal(state[name], value)


def test_a_killed_run_can_be_started_again_at_once(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    """Loader processes take seconds to notice that their trainer is dead; here they are held up, and never do."""
    options = [*pair_options, "workers=2"]
    training = start(tmp_path / "run", options, prelude=slowly)
    training.wait_for_step(3)
    loaders = [
        int(pid) for file in Path(f"/proc/{training.pid}/task").glob("*/children") for pid in file.read_text().split()
    ]
    assert len(loaders) == 2
    try:
        for pid in loaders:
            os.kill(pid, signal.SIGSTOP)
        training.kill()
        assert_undisturbed(start(tmp_path / "run", options).succeed(), pair_run)
    finally:
        for pid in loaders:
            os.kill(pid, signal.SIGKILL)
