"""Which process is which, from what torchrun, Slurm and nobody say about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.distributed.processes import choose_gpu
from jemb.launch import RankInfo, find_ranks, first_host, tasks_of_node
from jemb.run_folder import RunFolder
from jemb.train.strategies.choice import JoinedEnvironment
from tests.helpers.training_runs import Training, losses

# What Slurm sets for the script of `sbatch --nodes=2 --ntasks=4`, and in it for a task of `srun`.
SCRIPT = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "gpu[07-08]",
    "SLURM_TASKS_PER_NODE": "3,1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
TASK = {
    **SCRIPT,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
}
TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu07",
    "MASTER_PORT": "29500",
}


def test_torchrun() -> None:
    expected = RankInfo(rank=5, local_rank=1, node=1, world_size=8, local_world_size=4, address="gpu07", port=29500)
    assert find_ranks(TORCHRUN) == expected
    assert find_ranks({**SCRIPT, **TORCHRUN}) == expected
    assert find_ranks({**TASK, **TORCHRUN}) == expected, "started by srun, one torchrun a node"


def test_a_launcher_with_one_process_a_machine() -> None:
    """PyTorch jobs on Kubernetes are told no more than this."""
    place = find_ranks({"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "first", "MASTER_PORT": "1"})
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size, place.node) == (2, 3, 0, 1, 2)


def test_a_task_of_srun() -> None:
    place = find_ranks(TASK)
    assert (place.rank, place.local_rank, place.node, place.world_size, place.local_world_size) == (3, 0, 1, 4, 1)
    assert place.address == "gpu07"
    assert find_ranks({**TASK, "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_NODEID": "0"}).local_world_size == 3
    assert find_ranks({**TASK, "SLURM_STEP_ID": "3"}).port != place.port, "two steps at a time"
    assert 1024 < place.port < 32768
    given = find_ranks({**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (given.address, given.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SCRIPT,
        {name: value for name, value in SCRIPT.items() if name not in ("SLURM_PROCID", "SLURM_LOCALID")},
        {**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
    ids=["plain", "the script of sbatch", "a shell of salloc", "srun with one task"],
)
def test_alone(environment: dict[str, str]) -> None:
    place = find_ranks(environment)
    assert (place.rank, place.local_rank, place.node, place.world_size, place.local_world_size) == (0, 0, 0, 1, 1)
    assert JoinedEnvironment(place).world_size() == 1


def test_tasks_of_each_node() -> None:
    assert [tasks_of_node("2(x3),1", node) for node in range(4)] == [2, 2, 2, 1]
    assert [tasks_of_node("4,8(x2)", node) for node in range(3)] == [4, 8, 8]


def place_of(local: int, size: int, by_slurm: bool = False) -> RankInfo:
    return RankInfo(local, local, 0, size, size, "", 0, by_slurm)


def test_a_gpu_for_each_process() -> None:
    assert [choose_gpu(place_of(local, 4), 4) for local in range(4)] == [0, 1, 2, 3]
    assert [choose_gpu(place_of(local, 4, by_slurm=True), 4) for local in range(4)] == [0, 1, 2, 3]
    assert [choose_gpu(place_of(local, 4, by_slurm=True), 1) for local in range(4)] == [0] * 4, "--gpus-per-task=1"
    with pytest.raises(InputError, match="2 processes on a machine with 1 GPUs: start one for each GPU"):
        choose_gpu(place_of(1, 2), 1)


def in_the_script_of_sbatch() -> None:
    os.environ.update(SCRIPT)


def test_in_the_script_of_sbatch(tmp_path: Path, pair_options: list[str], pair_run: RunFolder) -> None:
    """`jemb train` there is one process; it must not wait for the other tasks of the job."""
    run = Training(tmp_path / "run", pair_options, prelude=in_the_script_of_sbatch).succeed()
    assert losses(run) == losses(pair_run)


def as_a_task_of_srun() -> None:
    """As `srun --ntasks=2` starts it, without --ntasks-per-node, which Lightning would insist on."""
    number = os.environ["RANK"]
    for name in list(os.environ):
        if name.startswith("TORCHELASTIC") or name in TORCHRUN:
            del os.environ[name]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost"}
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": str(os.getppid())}
    os.environ.update({**TASK, **step, **job, "SLURM_PROCID": number, "SLURM_LOCALID": number, "SLURM_NODEID": "0"})


def test_two_tasks_of_srun(tmp_path: Path, pair_options: list[str], pair_run: RunFolder) -> None:
    run = Training(tmp_path / "run", pair_options, 2, prelude=as_a_task_of_srun).succeed()
    assert losses(run) == pytest.approx(losses(pair_run), abs=1e-5)
    assert run.read_record()["starts"][0]["world_size"] == 2


def test_the_first_host_of_a_list() -> None:
    lists = ["gpu[07-08]", "n0,n1", "a[1,3-5],b7", "localhost", "rack1-node[003-010]"]
    assert [first_host(listed) for listed in lists] == ["gpu07", "n0", "a1", "localhost", "rack1-node003"]
