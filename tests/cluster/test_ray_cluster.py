"""`launch/slurm_prepare.sh` on two nodes of a real Slurm: Ray starts, a node dies in the middle, the bytes are the
same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jemb.demo.corpus import build_corpus
from tests.helpers.slurm import SlurmCluster

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm_prepare.sh"
OPTIONS = ["stages=[exact,near_duplicates,language,consistency]", "shard_samples=30", "keep_dropped=true"]
PATIENCE = 300
"""Seconds until a wait fails; the machine may be busy."""
PATCH = """
import os, sys
if "prepare" in sys.orig_argv:  # small pieces, so that there are tasks to hand out
    from jemb.prepare.engine import job, read
    read.PIECE_ROWS, job.SERIAL_BELOW = 64, 0
if os.environ.get("HANGS") and "default_worker" in str(sys.orig_argv):
    import importlib, time
    from pathlib import Path
    module, part, name = os.environ["HANGS"].split(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, part) if part else owner
    works, mark = getattr(owner, name), Path(os.environ["MARK"])
    def hangs(*arguments):
        if os.environ["SLURMD_NODENAME"] == "n1" and not mark.exists():
            mark.touch()
            time.sleep(10_000)
        while not mark.exists():  # or this node might do all the work before the other gets any
            time.sleep(0.1)
        return works(*arguments)
    setattr(owner, name, hangs)
"""
"""Python runs a module of this name first of all. HANGS: the function in the middle of which a worker on n1 stops."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo starts from, in small."""
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, max_pairs=500, seed=0)
    return folder / "raw"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("patch")
    (folder / "sitecustomize.py").write_text(PATCH)
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def wanted(corpus: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What local processes make of the corpus."""
    output = tmp_path_factory.mktemp("local") / "shards"
    command = ["jemb", "prepare", f"input={corpus}", f"output={output}", *OPTIONS, "workers=2"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return files(output)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


class Job:
    """`sbatch launch/slurm_prepare.sh`, with output in `folder`."""

    def __init__(self, slurm: SlurmCluster, folder: Path, output: Path, corpus: Path, more: dict[str, str]) -> None:
        self.slurm, self.folder = slurm, folder
        options = [f"input={corpus}", f"output={output}", *OPTIONS]
        command = ["--nodelist=n0,n1", "--cpus-per-task=1", str(SCRIPT), *options]
        self.number = slurm.sbatch(*command, folder=folder, more=more)

    def log(self) -> str:
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in sorted(self.folder.rglob("*.log")))

    def wait_for(self, mark: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not mark.exists():
            assert time.monotonic() < deadline, self.log()
            assert self.slurm.job(self.number)["JobState"] in ("PENDING", "RUNNING"), self.log()
            time.sleep(0.1)

    def end(self) -> dict[str, str]:
        """What Slurm knows of it once it has ended, and the nodes are idle again."""
        ended = self.slurm.wait(self.number, patience=PATIENCE)
        self.slurm.clear()
        assert not Path(f"/tmp/jemb-ray-{self.number}").exists(), "Ray's sockets and logs are removed at the end"
        return ended


@pytest.mark.parametrize(
    ("hangs", "event"),
    [
        pytest.param("jemb.prepare.engine.passes::_judge", "ray dies", marks=pytest.mark.slow),
        pytest.param("jemb.shards.writer:_OpenShard:finish", "node dies", marks=pytest.mark.soak),
        pytest.param("jemb.shards.writer:_OpenShard:finish", "time limit", marks=pytest.mark.soak),
    ],
    ids=["ray dies in a stage", "node dies while it writes a shard", "time limit"],
)
def test_the_bytes_are_those_of_local_processes_whatever_happens(
    tmp_path: Path, slurm: SlurmCluster, corpus: Path, environment: dict[str, str], wanted: dict[str, bytes],
    hangs: str, event: str,
) -> None:  # fmt: skip
    mark, output = tmp_path / "mark", tmp_path / "shards"
    job = Job(slurm, tmp_path, output, corpus, {**environment, "HANGS": hangs, "MARK": str(mark)})
    job.wait_for(mark)
    if event == "node dies":
        slurm.kill_node("n1")
    elif event == "ray dies":
        slurm.on_node("n1", "pkill -KILL raylet; pkill -KILL -f ray::")
    else:  # what --signal=B:USR1 does a minute before
        slurm.run("scancel", "--batch", "--signal=USR1", str(job.number))
    ended = job.end()
    assert ended["JobState"] == "COMPLETED", job.log()
    assert ended["Restarts"] == ("1" if event == "time limit" else "0")
    assert "Ray runs on 2 nodes at" in job.log()
    assert files(output) == wanted


@pytest.mark.slow
def test_a_node_that_does_not_see_the_output(
    tmp_path: Path, slurm: SlurmCluster, corpus: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "own").mkdir()
    slurm.on_node("n1", f"mount -t tmpfs none {tmp_path / 'own'}")
    job = Job(slurm, tmp_path, tmp_path / "own" / "shards", corpus, environment)
    try:
        ended = job.end()
    finally:
        slurm.on_node("n1", f"umount {tmp_path / 'own'}")
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), job.log()
    assert re.search(rf"jemb prepare: Ray node .* does not see output={tmp_path}/own/shards", job.log()), job.log()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["input=/"], {}, "output=FOLDER is missing (--help shows how to call this)"),
        (["input=nowhere", "output=out"], {}, "input=nowhere: there is no such file or folder"),
        (["output=out", "executor=local"], {}, "executor=local: this script sets it; leave it out"),
        (["output=out"], {}, "not in a Slurm job: use sbatch or salloc, or give RAY_ADDRESS=HOST:PORT (--help)"),
        (["output=out"], {"PATH": "/usr/bin:/bin"}, "there is no command 'jemb'; activate the environment that has it"),
    ],
)
def test_one_line_for_what_is_missing(
    arguments: list[str], variables: dict[str, str], message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
    variables = {**kept, **environment, **variables}
    done = subprocess.run([SCRIPT, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"slurm_prepare.sh: {message}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_address_without_a_cluster(tmp_path: Path, corpus: Path, environment: dict[str, str]) -> None:
    """RAY_ADDRESS goes to jemb as it is, and what jemb says about it comes back."""
    variables = {**os.environ, **environment, "RAY_ADDRESS": "127.0.0.1:1"}
    command = [SCRIPT, f"input={corpus}", f"output={tmp_path / 'out'}", *OPTIONS]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "jemb prepare: ray.address=127.0.0.1:1: no Ray cluster there" in done.stderr
