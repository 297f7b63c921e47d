"""`sbatch launch/slurm_train.sh` on a real Slurm of two nodes: the losses of one process, and exact through requeues, a
lost node and the time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from jemb.launch import find_ranks
from jemb.run_folder import RunFolder
from tests.helpers.slurm import PATIENCE, SlurmCluster

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "launch" / "slurm_train.sh")
BIN = Path(sys.executable).parent
STEPS = 16
SMALL = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "workers=0"]
COMMON = [*SMALL, "global_batch_size=12", f"max_steps={STEPS}", "log_samples=true", "trackers=[]", "timeout_minutes=5"]
SLOWED = """
import os, sys
if "jemb.app.train" in sys.orig_argv and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < int(os.environ["SLOW"]):
    import time
    from jemb.train.module import EmbeddingModule
    step = EmbeddingModule.training_step
    EmbeddingModule.training_step = lambda *arguments: (time.sleep(0.7), step(*arguments))[1]
"""
"""Python runs a module of this name first of all: in the first $SLOW starts of a job each step takes so long that
whatever happens to the run happens in the middle of it."""


class Job:
    """One `sbatch` of the script, its run folder and what it wrote."""

    def __init__(self, slurm: SlurmCluster, run: RunFolder, number: int, folder: Path) -> None:
        self.slurm, self.run, self.number, self.folder = slurm, run, number, folder

    @property
    def output(self) -> str:
        return (self.folder / f"slurm-{self.number}.out").read_text(errors="replace")

    def wait(self, *states: str) -> dict[str, str]:
        return self.slurm.wait(self.number, *states)

    def succeed(self) -> RunFolder:
        job = self.wait()
        assert job["JobState"] == "COMPLETED", self.all_output()
        return self.run

    def starts(self) -> list[dict[str, Any]]:
        return self.run.read_record()["starts"] if self.run.record.exists() else []

    def wait_for_step(self, step: int, start: int = 0) -> None:
        """Until start number `start` has done step number `step`."""
        deadline = time.monotonic() + PATIENCE
        while len(self.starts()) <= start or len(self.run.read_metrics()) < step:
            assert time.monotonic() < deadline, self.all_output()
            time.sleep(0.05)

    def all_output(self) -> str:
        logs = "\n".join(f"--- {path}\n{path.read_text()[-1500:]}" for path in sorted(self.run.logs.glob("*/*")))
        return f"{self.slurm.job(self.number)}\n{self.output}\n{logs}\n{self.slurm.logs()}"


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slowed")
    (folder / "sitecustomize.py").write_text(SLOWED)
    return folder


@pytest.fixture
def submit(slurm: SlurmCluster, tmp_path: Path, slowed: Path) -> Iterator[Callable[..., Job]]:
    """submit(options of sbatch, options of jemb train, slow=starts that are slow, more=variables) -> Job."""

    def begin(options: list[str], training: list[str], *, name: str = "run", slow: int = 0, **more: str) -> Job:
        variables = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(slowed), os.environ.get("PYTHONPATH", "")]),
            "SLOW": str(slow),
            **more,
        }
        arguments = ["--output=slurm-%j.out", *options, SCRIPT, f"output={name}", *COMMON, *training]
        return Job(
            slurm, RunFolder(tmp_path / name), slurm.sbatch(*arguments, folder=tmp_path, more=variables), tmp_path
        )

    yield begin
    slurm.clear()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pair_shards: Path, triplet_shards: Path) -> dict[str, RunFolder]:
    """The same trainings by one process, `pairs` and then `triplets`. Not to be written to."""
    folder = tmp_path_factory.mktemp("alone")
    code = (
        "import sys; from jemb.app.cli import main\n"
        "first = sys.argv.index('--')\n"
        "sys.exit(main(['train', *sys.argv[1:first]]) or main(['train', *sys.argv[first + 1:]]))"
    )
    pairs = [*COMMON, f"shards={pair_shards}", "output=pairs"]
    triplets = [*COMMON, *after_pairs(triplet_shards), "output=triplets"]
    command = [sys.executable, "-c", code, *pairs, "--", *triplets]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: RunFolder(folder / name) for name in ("pairs", "triplets")}


def after_pairs(shards: Path) -> list[str]:
    return [f"shards={shards}", "objective=triplets", "num_negatives=2", "init=pairs"]


def assert_same(run: RunFolder, other: RunFolder) -> None:
    """The same batches, in order and each once, and the same losses."""
    assert run.read_record()["status"] == "finished"
    assert run.samples.read_bytes() == other.samples.read_bytes()
    lines = run.read_metrics()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in other.read_metrics()], abs=1e-5)


@pytest.mark.slow
def test_pairs_then_triplets_over_two_nodes(
    submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path, triplet_shards: Path, tmp_path: Path
) -> None:
    """Three tasks, two of them on one node, then two: the losses of one process, and of torchrun."""
    first = submit(["--nodes=2", "--ntasks=3"], [f"shards={pair_shards}"], name="pairs")
    after = [f"--dependency=afterok:{first.number}", "--nodes=2", "--ntasks-per-node=1"]
    second = submit(after, after_pairs(triplet_shards), name="triplets")
    command = [str(ROOT / "launch" / "torchrun.sh"), f"shards={pair_shards}", "output=torchrun", *COMMON]
    path = f"{BIN}:{os.environ['PATH']}"
    assert_same(first.succeed(), alone["pairs"])
    assert first.slurm.job(first.number)["NodeList"] == "n[0-1]"
    assert [start["world_size"] for start in first.starts()] == [3]
    assert sorted(log.name for log in first.run.logs.glob("*/*")) == ["0.log", "1.log", "2.log"]
    assert_same(second.succeed(), alone["triplets"])
    assert [start["world_size"] for start in second.starts()] == [2]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "NPROC_PER_NODE": "2", "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_same(RunFolder(tmp_path / "torchrun"), first.run)


@pytest.mark.slow
def test_requeued_and_asked_to_save(submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path) -> None:
    """One job, three starts: requeued as by a preemption, then sent SIGUSR1 as before its time limit."""
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"], slow=2)
    job.wait_for_step(3)
    job.slurm.run("scontrol", "requeue", str(job.number))
    job.wait_for_step(6, start=1)
    job.slurm.run("scancel", "--batch", "--signal=USR1", str(job.number))
    assert_same(job.succeed(), alone["pairs"])
    assert job.slurm.job(job.number)["Restarts"] == "2"
    steps = [start["step"] for start in job.starts()]
    assert 0 == steps[0] < 3 <= steps[1] < 6 <= steps[2] < STEPS, "saved before it went, and no step of it lost"
    assert f"going on from step {steps[2]} in a next start of this job" in job.output
    assert [folder.name for folder in sorted(job.run.logs.iterdir())] == [f"{job.number}.{start}" for start in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["the script", "the processes", "one process"])
def test_asked_before_the_first_step(
    submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path, to: str
) -> None:
    """While Python still starts: there is nothing to save, and the job begins again. Of one process alone srun ends the
    others by SIGTERM."""
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"], PREFLIGHT="no")
    job.wait("RUNNING")
    while len(list(job.run.logs.glob("*.0/[01].log"))) < 2:  # a task that starts later would miss the signal
        time.sleep(0.05)
    if to == "one process":
        os.kill(second_task(job.number), signal.SIGUSR1)
    else:
        job.slurm.run("scancel", *["--batch"] * (to == "the script"), "--signal=USR1", str(job.number))
    assert_same(job.succeed(), alone["pairs"])
    assert job.slurm.job(job.number)["Restarts"] == "1", job.output
    assert "asked to stop before a first step; beginning again in a next start of this job" in job.output


def second_task(job: int) -> int:
    """Its process, on whichever of the nodes, which are all of this machine."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                has = set((folder / "environ").read_text(errors="replace").split("\0"))
                mine = {f"SLURM_JOB_ID={job}", "SLURM_PROCID=1"} <= has
                if mine and "jemb.app.train" in (folder / "cmdline").read_text():
                    return int(folder.name)
    raise AssertionError(f"job {job} has no second task")


@pytest.mark.soak
def test_preempted(submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path, tmp_path: Path) -> None:
    """By a job of a partition with a higher tier: Slurm sends the processes SIGTERM, and waits for them."""
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"], slow=1)
    job.wait_for_step(3)
    urgent = job.slurm.sbatch("--partition=urgent", "--nodes=3", "--ntasks-per-node=4", "--wrap=true", folder=tmp_path)
    assert_same(job.succeed(), alone["pairs"])
    assert job.slurm.wait(urgent)["JobState"] == "COMPLETED"
    assert job.starts()[1]["step"] >= 3
    assert "asked by SIGTERM" in job.all_output()


@pytest.mark.soak
def test_time_limit(submit: Callable[..., Job], pair_shards: Path) -> None:
    """Slurm itself sends the signal: 60 to 90 s before the end, as it looks twice a minute."""
    more = [f"shards={pair_shards}", "max_steps=250"]
    limits = ["--time=3", "--signal=B:USR1@60"]
    job = submit(["--nodes=2", "--ntasks-per-node=1", *limits], more, slow=1)
    job.wait_for_step(1)
    job.wait("PENDING", "COMPLETED")
    job.slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")  # enough for a busy machine
    run = job.succeed()
    assert [line["step"] for line in run.read_metrics()] == list(range(1, 251))
    assert 0 < job.starts()[1]["step"] < 250
    assert job.slurm.job(job.number)["Restarts"] == "1"
    undisturbed = submit(["--nodes=1", "--ntasks=1"], more, name="undisturbed").succeed()
    assert run.samples.read_bytes() == undisturbed.samples.read_bytes()


@pytest.mark.slow
def test_a_node_dies(submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path) -> None:
    """With slurmd, its step daemon and its task. The job says so, goes back into the queue, and on from the last
    checkpoint on other nodes."""
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}", "checkpoint_every=2"], slow=1)
    job.wait_for_step(5)
    job.slurm.kill_node("n1")
    job.wait("PENDING", "COMPLETING")
    saved = job.run.checkpoints()
    assert_same(job.succeed(), alone["pairs"])
    assert job.slurm.job(job.number)["NodeList"] == "n[0,2]"
    assert job.starts()[1]["step"] == saved[-1][0] >= 4
    assert "lost process 1 (n1, pid " in job.all_output()
    assert "srun: error: Node failure on n1" in job.output


@pytest.mark.slow
def test_cancelled_jobs_stay_out_of_the_queue(
    submit: Callable[..., Job], alone: dict[str, RunFolder], pair_shards: Path
) -> None:
    """`scancel` lets it save; SIGTERM to the processes alone does so, too. Then sbatch goes on."""
    options, training = ["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"]
    job = submit(options, training, slow=1, PREFLIGHT="no")
    job.wait_for_step(2)
    job.slurm.run("scancel", str(job.number))
    assert job.wait()["JobState"] == "CANCELLED"
    steps = job.run.read_record()["steps"]
    assert steps >= 2
    assert job.run.checkpoints()[-1][0] == steps
    again = submit(options, training, slow=1, PREFLIGHT="no")
    again.wait_for_step(steps + 2, start=1)
    again.slurm.run("scancel", "--signal=TERM", str(again.number))
    assert again.wait()["JobState"] == "COMPLETED"
    assert again.slurm.job(again.number)["Restarts"] == "0"
    assert again.run.read_record()["status"] == "stopped"
    assert "the same command goes on from there" in again.output
    assert_same(submit(options, training, PREFLIGHT="no").succeed(), alone["pairs"])


@pytest.fixture
def spoil(slurm: SlurmCluster) -> Iterator[Callable[[str, dict[Path, Path]], None]]:
    """spoil(node, {theirs: ours}): there, and only there, files and folders are others than they seem."""
    spoiled: set[str] = set()

    def begin(node: str, instead: dict[Path, Path]) -> None:
        spoiled.add(node)
        for theirs, ours in instead.items():
            slurm.on_node(node, f"mount --bind '{ours}' '{theirs}'")

    yield begin
    slurm.clear()
    for node in spoiled:
        slurm.kill_node(node)
        slurm.start_node(node)
    slurm.wait_for_nodes()


@pytest.mark.slow
def test_preflight_says_what_is_wrong_on_a_node(
    submit: Callable[..., Job],
    spoil: Callable[[str, dict[Path, Path]], None],
    slurm: SlurmCluster,
    slowed: Path,
    pair_shards: Path,
    tmp_path: Path,
) -> None:
    """No shards, hardly room for temporary files, a wrong clock: all told at once, and nothing started."""
    (tmp_path / "none").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nos.environ['TMPDIR'] = '/dev/shm/tiny'\nreal = time.time\ntime.time = lambda: real() + 3600\n"
    )
    slurm.on_node("n1", "mount -t tmpfs none /dev/shm && mkdir /dev/shm/tiny && mount -t tmpfs -o size=1m none $_")
    instead = {
        pair_shards: tmp_path / "none",
        slowed / "sitecustomize.py": tmp_path / "sitecustomize.py",
    }
    spoil("n1", instead)
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"])
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0"), job.all_output()
    lines = [line for line in job.output.splitlines() if line.startswith("node ")]
    assert all(line.startswith("node n1: ") for line in lines)
    text = "\n".join(lines)
    assert f"cannot read the shards: {pair_shards}" in text
    assert "0.0 GB free in /dev/shm/tiny (temporary files), at least 0.5 GB wanted" in text
    assert "its clock is 3600 s ahead of that of n0" in text
    assert len(lines) == 3
    assert not job.run.record.exists()


@pytest.mark.slow
def test_other_code_on_a_node(
    submit: Callable[..., Job], spoil: Callable[[str, dict[Path, Path]], None], pair_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text("# another version\n")
    spoil("n1", {ROOT / "jemb" / "inspect.py": tmp_path / "other.py"})
    job = submit(["--nodes=2", "--ntasks-per-node=1"], [f"shards={pair_shards}"])
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0"), job.all_output()
    assert re.search(r"process 0 \(.*\) and process 1 \(.*\) differ in what follows", job.output)
    assert re.search(r"^  code of jemb: [0-9a-f]{16}, [0-9a-f]{16}$", job.output, re.MULTILINE)
    assert not job.run.record.exists()


@pytest.mark.slow
def test_preflight_of_a_node_that_does_not_find_the_first(
    submit: Callable[..., Job],
    spoil: Callable[[str, dict[Path, Path]], None],
    slurm: SlurmCluster,
    pair_shards: Path,
    tmp_path: Path,
) -> None:
    """The name of the first node leads nowhere on the second. Both say so, and neither waits for ever."""
    (tmp_path / "hosts").write_text((slurm.folder / "hosts").read_text() + "127.0.0.1 head\n")
    spoil("n0", {Path("/etc/hosts"): tmp_path / "hosts"})
    options = ["--nodes=2", "--ntasks-per-node=1"]
    job = submit(options, [f"shards={pair_shards}"], MASTER_ADDR="head", PREFLIGHT_SECONDS="6")
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), job.all_output()
    lines = sorted(line for line in job.output.splitlines() if line.startswith("node "))
    assert lines[0].startswith("node n1: cannot reach the first node at head:"), job.output
    assert lines[1].startswith("node n1: did not get through to head:")
    assert lines[1].endswith(" within 6 s")


@pytest.mark.slow
def test_an_array_of_configurations(slurm: SlurmCluster, pair_shards: Path, tmp_path: Path) -> None:
    """One line of options a task; the script submits itself, once it has shown what the job will do."""
    (tmp_path / "configs").write_text("seed=1 temperature=0.1\n# a comment\nseed=2 output='second run'\n")
    command = [SCRIPT, "--nodes=1", "--ntasks=1", "--configs=configs", f"shards={pair_shards}", *COMMON]
    environment = {**slurm.environment, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "global batch of 12: 1 processes with 12 samples each" in done.stdout
    number = done.stdout.split()[-1]
    for task in (0, 1):
        ended = slurm.wait(f"{number}_{task}")
        output = (tmp_path / f"slurm-{number}_{task}.out").read_text()
        assert ended["JobState"] == "COMPLETED", output
    first, second = RunFolder(tmp_path / "runs" / f"{number}-0"), RunFolder(tmp_path / "second run")
    configs = [yaml.safe_load(run.config.read_text()) for run in (first, second)]
    assert [(config["seed"], config["temperature"]) for config in configs] == [(1, 0.1), (2, 0.05)]
    assert first.samples.read_bytes() != second.samples.read_bytes()
    assert {run.read_record()["status"] for run in (first, second)} == {"finished"}


def test_where_each_task_stands(slurm: SlurmCluster, tmp_path: Path) -> None:
    """What Slurm really tells the tasks of a step whose nodes have unlike numbers of them."""
    command = ["srun", "--nodes=2", "--ntasks=3", "bash", "-c", f"env -0 > {tmp_path}/$SLURM_PROCID"]
    slurm.run(*command)
    for rank, expected in enumerate([(0, 0, 0, 3, 2), (1, 1, 0, 3, 2), (2, 0, 1, 3, 1)]):
        told = (tmp_path / str(rank)).read_text().split("\0")
        place = find_ranks(dict(line.split("=", 1) for line in told if "=" in line))
        assert (place.rank, place.local_rank, place.node, place.world_size, place.local_world_size) == expected
        assert place.address == "n0"


def test_a_partition_that_does_not_exist(slurm: SlurmCluster, pair_shards: Path, tmp_path: Path) -> None:
    done = slurm.try_sbatch("--partition=nowhere", SCRIPT, f"shards={pair_shards}", folder=tmp_path)
    assert done.returncode != 0
    assert "invalid partition specified: nowhere" in done.stderr
    assert list(tmp_path.iterdir()) == []
