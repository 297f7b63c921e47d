"""One Slurm cluster for all tests that want one, or one for each worker of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.slurm import SlurmCluster, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running cluster of two nodes."""
    if reason := missing():
        pytest.skip(reason)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
