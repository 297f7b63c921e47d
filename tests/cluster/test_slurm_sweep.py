"""`jemb train -m` with Hydra's submitit launcher, on a real Slurm: a job for each run, and the table of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jemb.run_folder import RunFolder
from tests.helpers.slurm import PATIENCE, SlurmCluster


@pytest.mark.soak
def test_each_run_is_a_job(slurm: SlurmCluster, tmp_path: Path, pair_shards: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    small = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "workers=0"]
    options = [*small, f"shards={pair_shards}", "output=sweep", "max_steps=2", "global_batch_size=8", "trackers=[]"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", "hydra.launcher.timeout_min=10"]
    command = [sys.executable, "-m", "jemb.app.cli", "train", "-m", *options, *launcher, "seed=1,2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=slurm.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    logs = "\n".join(path.read_text() for path in tmp_path.glob("sweep/.submitit/*/*.*[rt]"))
    assert done.returncode == 0, f"{done.stderr}\n{logs}\n{slurm.logs()}"
    assert {line.split()[-1] for line in done.stdout.splitlines()[-2:]} == {"sweep/seed=1", "sweep/seed=2"}
    for seed in (1, 2):
        run = RunFolder(tmp_path / "sweep" / f"seed={seed}")
        assert run.status() == "finished"
        assert run.read_config()["seed"] == seed
    jobs = slurm.run("scontrol", "--oneliner", "show", "job").splitlines()
    ours = [job for job in jobs if f"{tmp_path}/sweep/.submitit" in job]
    assert len(ours) == 2, jobs
    numbers = [job.split()[0].removeprefix("JobId=") for job in ours]
    assert [slurm.wait(number)["JobState"] for number in numbers] == ["COMPLETED"] * 2
    slurm.clear()
