"""The scripts in launch/ without a cluster: clean shell, help, one line for whatever is missing, the right command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
BIN = Path(sys.executable).parent
SMALL = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "max_steps=5"]


def call(script: str, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a user's shell would get, with jemb's environment activated unless PATH is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "NPROC_", "WORLD_"))}
    environment = {**kept, "PATH": f"{BIN}:{kept['PATH']}", **variables}
    command = [str(LAUNCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    found = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help(script: Path, tmp_path: Path) -> None:
    done = call(script.name, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "Variables:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("torchrun.sh", ["output=run"], {}, "shards=FOLDER is missing (see --help)"),
        ("torchrun.sh", ["shards=shards"], {}, "output=FOLDER is missing (see --help)"),
        ("torchrun.sh", ["shards=nowhere", "output=run"], {}, "shards=nowhere: there is no such folder"),
        ("torchrun.sh", [], {"NNODES": "two"}, "NNODES=two: wanted a number, or MIN:MAX"),
        ("torchrun.sh", [], {"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE=0: wanted a number above 0"),
        ("torchrun.sh", [], {"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1: wanted a number"),
        ("torchrun.sh", [], {"NNODES": "2"}, "NNODES=2 needs HEAD_NODE=HOST or RDZV_ENDPOINT=HOST:PORT"),
        ("torchrun.sh", [], {"NNODES": "2", "RDZV_ENDPOINT": "n0"}, "RDZV_ENDPOINT=n0: wanted HOST:PORT"),
        ("torchrun.sh", ["shards=shards", "output=run"], {"PATH": "bare"}, "bare/python has no jemb"),
        ("slurm_train.sh", ["--nodes=2-4", "shards=shards"], {"PATH": "stub"}, "--nodes=2-4: wanted a number above 0"),
        ("slurm_train.sh", ["output=run"], {"PATH": "stub"}, "shards=FOLDER is missing (see --help)"),
        ("slurm_train.sh", ["shards=nowhere"], {"PATH": "stub"}, "shards=nowhere: there is no such folder"),
        ("slurm_train.sh", ["shards=shards", "--configs=no"], {"PATH": "stub"}, "--configs=no: there is no such file"),
        ("slurm_train.sh", ["shards=shards"], {"PATH": "none"}, "there is no command 'sbatch' on this machine"),
        ("slurm_train.sh", ["shards=shards"], {"PATH": "stub", "MASTER_PORT": "x"}, "MASTER_PORT=x: wanted a number"),
        ("slurm_train.sh", ["--nodes=2", "shards=shards"], {"SLURM_JOB_ID": "1"}, "stand before the script's name"),
        ("slurm_train.sh", ["--configs=no"], {"SLURM_JOB_ID": "1"}, "--configs=no needs a job array"),
    ],
)  # fmt: skip
def test_one_line_for_what_is_missing(
    script: str, arguments: list[str], variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    bare, stub, none = tmp_path / "bare", tmp_path / "stub", tmp_path / "none"
    for folder in (bare, stub, none):
        folder.mkdir()
    (bare / "python").symlink_to("/usr/bin/python3")  # one without jemb
    (stub / "sbatch").symlink_to("/bin/false")
    (none / "bash").symlink_to("/bin/bash")
    paths = {"bare": f"{bare}:/usr/bin:/bin", "stub": f"{stub}:{BIN}:/usr/bin:/bin", "none": str(none)}
    if "PATH" in variables:
        variables = {**variables, "PATH": paths[variables["PATH"]]}
    done = call(script, *arguments, folder=tmp_path, **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dry_run_of_torchrun(tmp_path: Path, pair_shards: Path) -> None:
    """The line it shows is the one that it runs; the processes of all machines count."""
    options = [f"shards={pair_shards}", "output=run", "global_batch_size=24", *SMALL]
    machines = {"NNODES": "1:3", "HEAD_NODE": "n0", "NPROC_PER_NODE": "2", "MAX_RESTARTS": "1"}
    done = call("torchrun.sh", *options, "dry_run=true", folder=tmp_path, **machines)
    assert done.returncode == 0, done.stderr
    assert "global batch of 24: 6 processes with 4 samples each" in done.stdout
    command = "python -m torch.distributed.run --nproc-per-node 2 --max-restarts 1 --nnodes 1:3 --rdzv-backend c10d"
    assert f"command: {command} --rdzv-endpoint n0:29400 --rdzv-id jemb -m jemb.app.train " in done.stdout
    assert "dry_run" not in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dry_run_of_slurm(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    """An array's first line is shown with the options given; sbatch is not called."""
    make_dataset(tmp_path / "shards", "answers", 50)
    (tmp_path / "configs").write_text("# two seeds\nseed=1 output='runs/a b'\n\nseed=2 output=runs/c\n")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\ntouch called\n")
    sbatch.chmod(0o755)
    options = ["--nodes=2", "--ntasks-per-node=4", "--configs=configs", "shards=shards", "global_batch_size=16", *SMALL]
    path = f"{tmp_path}:{BIN}:/usr/bin:/bin"
    done = call("slurm_train.sh", *options, "dry_run=true", folder=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "global batch of 16: 8 processes with 2 samples each" in done.stdout
    assert "run folder runs/a b" in done.stdout
    assert "command: sbatch --nodes=2 --ntasks-per-node=4 --array=0-1 " in done.stdout
    assert not (tmp_path / "called").exists()
    assert not (tmp_path / "runs").exists()
