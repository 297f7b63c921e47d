"""The same run however it is split: processes, micro-batches, loader processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jemb.run_folder import RunFolder
from tests.helpers.training_runs import Training, losses, read_lines

Start = Callable[..., Training]
INVARIANT = ("dataset", "hidden_candidates", "negatives_per_query", "tokens", "learning_rate")


def assert_same_run(run: RunFolder, reference: RunFolder) -> None:
    assert run.samples.read_bytes() == reference.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(reference), abs=1e-5)
    for line, expected in zip(read_lines(run.metrics), read_lines(reference.metrics), strict=True):
        assert {name: line[name] for name in INVARIANT} == {name: expected[name] for name in INVARIANT}
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


def test_pairs_on_two_processes(tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder) -> None:
    assert_same_run(start(tmp_path / "run", pair_options, processes=2).succeed(), pair_run)
    assert sum(line["hidden_candidates"] for line in read_lines(pair_run.metrics)) > 0, "the masks took part"


def test_triplets_on_four_processes(
    tmp_path: Path, start: Start, triplet_options: list[str], triplet_run: RunFolder
) -> None:
    assert_same_run(start(tmp_path / "run", triplet_options, processes=4).succeed(), triplet_run)
    assert sum(line["hidden_candidates"] for line in read_lines(triplet_run.metrics)) > 0, "the masks took part"


def test_micro_batches_change_nothing(
    tmp_path: Path, start: Start, triplet_options: list[str], triplet_run: RunFolder
) -> None:
    """Parts of 3 of 4 rows and 8 negatives: full parts, cut ones, and one that is all of it."""
    run = start(tmp_path / "run", [*triplet_options, "micro_batch_size=3"], processes=2).succeed()
    assert_same_run(run, triplet_run)


def test_loader_processes_change_nothing(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder
) -> None:
    training = start(tmp_path / "run", [*pair_options, "workers=2"])
    run = training.succeed()
    assert run.samples.read_bytes() == pair_run.samples.read_bytes()
    assert losses(run) == losses(pair_run)
    assert (run.model / "model.safetensors").read_bytes() == (pair_run.model / "model.safetensors").read_bytes()
    assert "fork" not in training.output, "no warnings from the tokenizer about its processes"


def test_strategies_of_one_process(tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder) -> None:
    one, other = (start(tmp_path / name, [*pair_options, f"strategy={name}"]) for name in ("single", "ddp"))
    assert losses(one.succeed()) == losses(pair_run)
    assert losses(other.succeed()) == pytest.approx(losses(pair_run), abs=1e-5)


@pytest.mark.slow
def test_a_t5_by_path_on_two_processes(
    tmp_path: Path, start: Start, triplet_options: list[str], t5_folder: Path
) -> None:
    options = [option for option in triplet_options if not option.startswith("model.")]
    options += [f"model.path={t5_folder}", "learning_rate=1e-3"]
    alone = start(tmp_path / "alone", options).succeed()
    assert_same_run(start(tmp_path / "together", options, processes=2).succeed(), alone)
    assert min(losses(alone)) < losses(alone)[0]


def test_bf16(tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder) -> None:
    """The encoder in bf16, the loss in fp32: near the fp32 run, not equal to it."""
    run = start(tmp_path / "run", [*pair_options, "precision=bf16"]).succeed()
    assert losses(run) != losses(pair_run)
    assert losses(run) == pytest.approx(losses(pair_run), rel=0.05)


def test_the_model_learns(
    pair_run: RunFolder, triplet_run: RunFolder, tmp_path: Path, start: Start, pair_options: list[str]
) -> None:
    run = start(tmp_path / "run", [*pair_options, "learning_rate=5e-3", "max_steps=60", "log_samples=false"]).succeed()
    found = losses(run)
    assert sum(found[-10:]) < 0.7 * sum(found[:10])
    assert not run.samples.exists()
