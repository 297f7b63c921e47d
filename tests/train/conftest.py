"""Runs that several tests compare with, and a launcher that leaves no process behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jemb.run_folder import RunFolder
from tests.helpers.training_runs import SMALL, Training

STEPS = 20


@pytest.fixture(scope="session")
def pair_options(pair_shards: Path) -> list[str]:
    """20 steps on two data sets of pairs; 8 samples a step, so both data sets are used up several times."""
    return [*SMALL, f"shards={pair_shards}", "global_batch_size=8", f"max_steps={STEPS}", "log_samples=true"]


@pytest.fixture(scope="session")
def triplet_options(triplet_shards: Path) -> list[str]:
    """20 steps on triplets, two of the three negatives of each."""
    return [
        *SMALL,
        f"shards={triplet_shards}",
        "objective=triplets",
        "num_negatives=2",
        "global_batch_size=8",
        f"max_steps={STEPS}",
        "log_samples=true",
    ]


@pytest.fixture
def start() -> Iterator[Callable[..., Training]]:
    """`Training`, started; whatever still runs at the end of the test is killed."""
    started: list[Training] = []

    def begin(folder: Path, options: list[str], processes: int = 1, **more: Any) -> Training:
        started.append(Training(folder, options, processes, **more))
        return started[-1]

    yield begin
    for training in started:
        training.kill()


@pytest.fixture(scope="session")
def pair_run(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """The undisturbed run on pairs, in one process. Not to be written to."""
    return Training(tmp_path_factory.mktemp("undisturbed") / "pairs", pair_options).succeed()


@pytest.fixture(scope="session")
def triplet_run(tmp_path_factory: pytest.TempPathFactory, triplet_options: list[str]) -> RunFolder:
    """The undisturbed run on triplets, in one process. Not to be written to."""
    return Training(tmp_path_factory.mktemp("undisturbed") / "triplets", triplet_options).succeed()
