"""Who gets which rows of a global batch, and in what groups they are encoded, changes nothing but time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jemb.app.cli import run_command
from jemb.data import loader
from jemb.run_folder import RunFolder
from tests.helpers.training_runs import Training, read_lines
from tests.train.test_parity import assert_same_run

Start = Callable[..., Training]


def deal_at_random() -> None:
    """To each rank other rows than by length, in another order than the plan's."""
    draws = np.random.default_rng(7)
    orders = [draws.permutation(8) for _ in range(100)]
    count = iter(range(100))

    def deal(sizes: np.ndarray, rank: int, num_ranks: int) -> np.ndarray:
        return orders[next(count)].reshape(num_ranks, -1)[rank]

    loader.deal = deal


@pytest.mark.parametrize(("kind", "processes"), [("pair", 2), ("triplet", 4)])
def test_the_loss_does_not_depend_on_the_order_in_the_batch(
    tmp_path: Path, start: Start, request: pytest.FixtureRequest, kind: str, processes: int
) -> None:
    options, reference = request.getfixturevalue(f"{kind}_options"), request.getfixturevalue(f"{kind}_run")
    run = start(tmp_path / "run", options, processes=processes, prelude=deal_at_random).succeed()
    assert_same_run(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 40])
def test_micro_batches_of_tokens(
    tmp_path: Path, start: Start, triplet_options: list[str], triplet_run: RunFolder, budget: int
) -> None:
    """Each text by itself; and in groups whose number differs from process to process."""
    run = start(tmp_path / "run", [*triplet_options, f"micro_batch_tokens={budget}"], processes=2).succeed()
    assert_same_run(run, triplet_run)
    paddings = [line["padding_share"] for line in read_lines(run.metrics)]
    assert (max(paddings) == 0) is (budget == 1)


def test_only_one_kind_of_micro_batch(
    tmp_path: Path, pair_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"output={tmp_path / 'run'}", *pair_options, "micro_batch_size=2", "micro_batch_tokens=64"]
    assert run_command("train", options) == 2
    assert "micro_batch_size=2 and micro_batch_tokens=64: set one of them to null" in capsys.readouterr().err
