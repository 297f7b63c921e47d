"""What goes wrong while a run goes on: one message that names the cause, the right exit code, and nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jemb.app.cli import run_command
from jemb.data import BatchPlan, PlanSource
from jemb.data.deal import PayloadSizes, deal
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets, write_dataset
from jemb.train.logs import record
from tests.helpers.training_runs import Training, read_lines

Start = Callable[..., Training]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_no_number(tmp_path: Path, start: Start, pair_options: list[str], processes: int) -> None:
    """Huge steps: the message names step, data set and samples; the last checkpoint is whole and good."""
    options = [*pair_options, "learning_rate=1e18", "checkpoint_every=1", "warmup_steps=0"]
    training = start(tmp_path / "run", options, processes=processes)
    assert training.wait() == [1] * processes
    assert "Traceback" not in training.output
    found = re.findall(r"^jemb train: the (?:loss|gradient norm) of step (\d+) is (?:nan|inf)", training.output, re.M)
    assert len(found) == training.output.count(" temperature too low") == 1, f"one message:\n{training.output}"
    step = int(found[0])
    assert f"learning_rate too high ({1e18:g})" in training.output
    samples = [name for name in ("answers", "all-titles_v2") if f"samples {name}-" in training.output]
    assert len(samples) == 1
    assert len(read_lines(training.run.metrics)) == step - 1
    assert [done for done, _ in training.run.checkpoints()] == list(range(max(1, step - 2), step))
    again = start(tmp_path / "run", options, processes=processes)
    assert again.wait() == [1] * processes, again.output
    assert f"of step {step} is" in again.output


@pytest.fixture
def damaged(tmp_path: Path, pair_shards: Path) -> tuple[Path, int]:
    """Shards of which one sample's bytes were overwritten, and the step (from 0) of which the second of two ranks has
    it."""
    folder = shutil.copytree(pair_shards / "answers", tmp_path / "answers")
    reader = open_datasets(folder)["answers"]
    plan = BatchPlan([PlanSource("answers", len(reader), reader.manifest.fingerprint)], seed=0, global_batch_size=8)
    step = 3
    rows = plan.batch(step)[1]
    row = int(rows[deal(PayloadSizes(reader)(rows), 1, 2)][2])
    shard, inside = divmod(row, 16)
    offset = int(np.load(folder / f"shard-{shard:06d}.idx.npy")["offset"][inside])
    with (folder / f"shard-{shard:06d}.tar").open("r+b") as tar:
        tar.seek(offset)
        tar.write(b"\xff\xff\xff\xff")
    return folder, step


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 1), (2, 1)])
def test_a_damaged_sample(
    tmp_path: Path,
    start: Start,
    pair_options: list[str],
    pair_run: RunFolder,
    damaged: tuple[Path, int],
    processes: int,
    workers: int,
) -> None:
    """The message reaches the user whichever process reads it: the loader's, or the second rank's."""
    folder, step = damaged
    options = [option for option in pair_options if not option.startswith(("model.", "max_length"))]
    # From a finished model: to train a tokenizer, the first process would read the sample before the first step.
    options += [f"init={pair_run.path}", f"shards={folder}", f"workers={workers}"]
    training = start(tmp_path / "run", options, processes=processes)
    assert training.wait()[-1] == 2
    # Whatever is the first: the step that reads it, or the thread that compares the shard with its checksum.
    seen = (
        r"shard-00000\d\.tar: (damaged sample 'answers-\d+' at byte \d+|sha256 is \w{64}; manifest\.json wants \w{64})"
    )
    assert re.search(seen, training.output), training.output
    assert len(read_lines(training.run.metrics)) <= step
    assert "Traceback" not in training.output


def another_letter(folder: Path) -> None:
    """In the text of a sample: the JSON stays good."""
    tar = folder / "answers" / "shard-000001.tar"
    data = tar.read_bytes()
    assert b"answers " in data
    tar.write_bytes(data.replace(b"answers ", b"answerz ", 1))


def reversed_index(folder: Path) -> None:
    path = folder / "answers" / "shard-000001.idx.npy"
    np.save(path, np.load(path)[::-1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_letter, r"shard-000001\.tar: sha256 is \w{64}; manifest\.json wants \w{64}: the tar has changed"),
        (reversed_index, r"shard-000001\.idx\.npy: row 1 is said to have .*; the index has changed"),
    ],
)
def test_a_shard_that_changes_between_two_starts(
    tmp_path: Path,
    start: Start,
    pair_options: list[str],
    pair_shards: Path,
    pair_run: RunFolder,
    change: Callable[[Path], None],
    told: str,
) -> None:
    """Its size is what it was. Nothing that has seen it is saved."""
    folder = shutil.copytree(pair_shards, tmp_path / "shards")
    options = [*pair_options, f"shards={folder}", "checkpoint_every=5"]
    first = start(tmp_path / "run", [*options, "max_steps=10"])
    run = first.succeed()
    assert "shards are what their checksums say" in first.output
    before = [path.name for _, path in run.checkpoints()]
    change(folder)
    again = start(tmp_path / "run", options)
    assert again.wait() == [2]
    assert re.search(told, again.output), again.output
    assert "Traceback" not in again.output
    assert [path.name for _, path in run.checkpoints()] == before


def test_two_trainers_on_one_folder(
    tmp_path: Path, start: Start, pair_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    training = start(tmp_path / "run", [*pair_options, "max_steps=3000"])
    training.wait_for_step(2)
    assert run_command("train", [f"output={tmp_path / 'run'}", *pair_options]) == 2
    assert "another `jemb train` is writing" in capsys.readouterr().err
    assert training.processes[0].is_alive()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """A run of 20 steps that was killed after a checkpoint."""
    training = Training(tmp_path_factory.mktemp("stopped") / "run", [*pair_options, "checkpoint_every=4"])
    training.wait_for_step(6)
    training.kill()
    return training.run


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["temperature=0.1"], ["temperature", "0.05", "0.1"]),
        (["seed=1"], ["seed", ": 0 before, 1 now"]),
        (["global_batch_size=16"], ["global_batch_size", ": 8 before, 16 now"]),
        (["weights.answers=2.5"], ["weights.answers", "None before, 2.5 now"]),
        (["learning_rate=1e-3", "margin=0.1"], ["learning_rate", "0.0002", "0.001", "margin"]),
        (["model.dropout=0.1"], ["model.dropout", "0.0", "0.1"]),
        (["model.hidden_size=64"], ["model.hidden_size", "32", "64"]),
    ],
)
def test_a_run_is_not_continued_with_other_options(
    stopped: RunFolder,
    pair_options: list[str],
    changes: list[str],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in stopped.path.rglob("*") if path.is_file()}
    assert run_command("train", [f"output={stopped.path}", *pair_options, *changes]) == 2
    message = capsys.readouterr().err
    for part in expected:
        assert part in message
    assert {path: path.read_bytes() for path in stopped.path.rglob("*") if path.is_file()} == before


def test_a_run_without_its_options_is_not_continued(
    tmp_path: Path, stopped: RunFolder, pair_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped.path, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    assert run_command("train", [f"output={tmp_path / 'run'}", *pair_options]) == 2
    assert "has checkpoints but no config.yaml" in capsys.readouterr().err


def test_a_run_is_not_continued_on_other_shards(
    tmp_path: Path,
    stopped: RunFolder,
    pair_options: list[str],
    pair_shards: Path,
    make_dataset: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Same names and sizes, other contents: the fingerprints of both plans are shown."""
    make_dataset(tmp_path, "other", 50)
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"other"', '"answers"'))
    shutil.copytree(pair_shards / "all-titles.v2", tmp_path / "all-titles.v2")
    assert run_command("train", [f"output={stopped.path}", *pair_options, f"shards={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert stopped.read_record()["plan_fingerprint"][:16] in message
    assert len(set(re.findall(r"[0-9a-f]{16}(?=…)", message))) == 2


def test_a_run_goes_on_where_its_shards_have_moved_to(
    tmp_path: Path, start: Start, pair_options: list[str], pair_shards: Path, pair_run: RunFolder
) -> None:
    training = start(tmp_path / "run", [*pair_options, "checkpoint_every=2"])
    training.wait_for_step(5)
    training.kill()
    moved = shutil.copytree(pair_shards, tmp_path / "moved")
    run = start(tmp_path / "run", [*pair_options, f"shards={moved}"]).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()


def test_a_file_of_the_users_in_a_run_does_not_stop_it(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    """Notes, or the output of `jemb evaluate`."""
    run = start(tmp_path / "run", [*pair_options, "max_steps=3"]).succeed()
    (run.path / "sts.json").write_text("{}")
    start(tmp_path / "run", pair_options).succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert (run.path / "sts.json").read_text() == "{}"


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Path, pair_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert run_command("train", [f"output={tmp_path}", *pair_options]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["thesis.tex"]


def test_exit_code_0_means_done(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """`jemb train 2>&1 | head` takes the command's output away: it may go on or fail, but not claim to be done."""
    training = start(tmp_path / "run", [*pair_options, "max_steps=200"], pipe=True)
    training.wait_for_step(3)
    training.close_pipe()
    (code,) = training.wait()
    assert (code == 0) == (training.run.read_record()["status"] == "finished")


def with_other_texts(folder: Path) -> None:
    """Same manifest and index, other letters in the tars: a copy that went wrong."""
    for tar in folder.glob("*/*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"birch", b"beech"))


def with_other_samples(folder: Path) -> None:
    """The data set made anew with the same samples in another order."""
    reader = open_datasets(folder)["answers"]
    write_dataset(folder / "new", "answers", [*reader][::-1], 16)
    shutil.rmtree(folder / "answers")


def without_an_index(folder: Path) -> None:
    (folder / "answers" / "shard-000001.idx.npy").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_other_texts, r"  texts of data set answers: [0-9a-f]{16}, [0-9a-f]{16}$"),
        (with_other_samples, r"  data set answers: 50 samples with fingerprint [0-9a-f]{16}, 50 samples with finger"),
        (without_an_index, r"^jemb train: process 1 \(\S+, pid \d+\): \S+shard-000001\.idx\.npy: no such file"),
        (None, r"  temperature: 0\.05, 0\.07$"),
    ],
)
def test_processes_with_other_data_or_options(
    tmp_path: Path,
    start: Start,
    pair_options: list[str],
    pair_shards: Path,
    change: Callable[[Path], None] | None,
    expected: str,
) -> None:
    """Told before the first step, on one line of the first process, and both end as for wrong input."""
    own = ["temperature=0.07"]
    if change:
        shutil.copytree(pair_shards, tmp_path / "other")
        change(tmp_path / "other")
        own = [f"shards={tmp_path / 'other'}"]
    training = start(tmp_path / "run", pair_options, processes=2, own={1: own})
    assert training.wait() == [2, 2]
    assert re.search(expected, training.output, re.M), training.output
    assert training.output.count("jemb train:") == 1
    assert not (tmp_path / "run" / "run.json").exists()


def have_other_code() -> None:
    """On the second of two machines, one of which was brought up to date."""
    if os.environ["RANK"] == "1":
        record.code_hash = lambda: "0123456789abcdef"


def test_processes_with_other_code(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    training = start(tmp_path / "run", pair_options, processes=2, prelude=have_other_code)
    assert training.wait() == [2, 2]
    assert re.search(r"  code of jemb: [0-9a-f]{16}, 0123456789abcdef$", training.output, re.M), training.output


def see_other_sizes() -> None:
    """In the second process, from step 5 on."""
    if os.environ["RANK"] == "1":
        sizes, calls = PayloadSizes.__call__, []

        def strange(self: PayloadSizes, rows: np.ndarray) -> np.ndarray:
            calls.append(rows)
            return sizes(self, rows) if len(calls) < 5 else sizes(self, rows)[::-1]

        PayloadSizes.__call__ = strange


def test_an_index_that_changes_under_way(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """The processes would train on some rows twice and on others never; the step's check sum tells them."""
    training = start(tmp_path / "run", pair_options, processes=2, prelude=see_other_sizes)
    assert training.wait() == [2, 2]
    step = len(read_lines(training.run.metrics)) + 1
    assert 5 <= step < 8, "once the shares differ"
    found = f"step {step}: the processes do not share out the same batch of data set "
    assert training.output.count(found) >= 1, training.output


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_hangs(tmp_path: Path, start: Start, pair_options: list[str], stopped: int) -> None:
    """The other one ends after the time-out, and says which one to look at; then the same command goes on."""
    options = [*pair_options, "max_steps=2000", "checkpoint_every=2"]
    training = start(tmp_path / "run", [*options, "timeout_minutes=0.1"], processes=2)
    training.wait_for_step(4)
    os.kill(training.pid_of(stopped), signal.SIGSTOP)
    other = training.processes[1 - stopped]
    other.join(60)
    assert other.exitcode == 1, training.output
    place = rf"process {stopped} \(\S+, pid {training.pid_of(stopped)}\)"
    assert re.search(rf"no answer for 0\.1 minutes \(timeout_minutes\) from {place}", training.output), training.output
    assert "Traceback" not in training.output
    training.kill()
    again = start(tmp_path / "run", options, processes=2)
    again.wait_for_step(8)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_never_comes(tmp_path: Path, start: Start, pair_options: list[str], missing: int) -> None:
    training = start(tmp_path / "run", [*pair_options, "timeout_minutes=0.1"], processes=2)
    training.processes[missing].kill()
    other = training.processes[1 - missing]
    other.join(60)
    assert other.exitcode == 1
    message = (
        r"the 2 processes did not all meet at 127\.0\.0\.1:\d+ within 0\.1 minutes \(timeout_minutes\): one has ended"
    )
    assert len(re.findall(message, training.output)) == 1, training.output
    assert "Traceback" not in training.output


@pytest.mark.parametrize(("processes", "victim"), [(2, 1), (4, 2), (2, 0)])
def test_a_process_that_dies(
    tmp_path: Path, start: Start, pair_options: list[str], processes: int, victim: int
) -> None:
    """Named, and no other: also by processes that were not connected with it."""
    training = start(tmp_path / "run", [*pair_options, "max_steps=2000"], processes=processes)
    training.wait_for_step(3)
    training.processes[victim].kill()
    codes = training.wait()
    assert codes == [-signal.SIGKILL if rank == victim else 1 for rank in range(processes)]
    named = re.findall(r"lost ((?:process \d \(\S+, pid \d+\)(?:, )?)+): killed", training.output)
    assert len(named) == 1, training.output
    assert re.fullmatch(rf"process {victim} \(\S+, pid {training.pid_of(victim)}\)", named[0])
    assert "Traceback" not in training.output
