"""What is allowed but hardly meant is said, and what cannot work is refused before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jemb.run_folder import RunFolder
from jemb.shards import open_datasets
from tests.helpers.training_runs import Training, read_lines

Start = Callable[..., Training]


def test_other_max_steps_move_the_learning_rate(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    """Linear down to 0 at step 6, of which a tenth, none, is warm-up; then to step 12 with one step of it."""
    first = start(tmp_path / "run", [*pair_options, "max_steps=6"])
    first.succeed()
    assert "max_steps was" not in first.output
    longer = start(tmp_path / "run", [*pair_options, "max_steps=12"])
    run = longer.succeed()
    rate = read_lines(run.metrics)[6]["learning_rate"]
    assert rate == pytest.approx(2e-4 * 6 / 11)
    assert (
        f"max_steps was 6 and is now 12, which moves the learning rate: after step 6 it is {rate:.3g} instead of 0"
        in (longer.output)
    )


def test_other_max_steps_where_the_learning_rate_does_not_depend_on_them(
    tmp_path: Path, start: Start, pair_options: list[str]
) -> None:
    options = [*pair_options, "schedule=constant", "warmup_steps=2"]
    start(tmp_path / "run", [*options, "max_steps=3"]).succeed()
    longer = start(tmp_path / "run", [*options, "max_steps=5"])
    longer.succeed()
    assert "max_steps was" not in longer.output
    shorter = start(tmp_path / "run", [*options, "max_steps=3"])
    shorter.succeed()
    assert "was already finished after 5 steps" in shorter.output


def test_a_warm_up_that_never_ends(tmp_path: Path, start: Start, pair_options: list[str]) -> None:
    training = start(tmp_path / "run", [*pair_options, "max_steps=2", "warmup_steps=8"])
    training.succeed()
    message = "warmup_steps=8 is more than the 2 steps of this run: the learning rate only rises, to 25 % of 0.0002"
    assert message in training.output


def test_negatives_that_are_not_used(
    tmp_path: Path, start: Start, pair_options: list[str], triplet_shards: Path
) -> None:
    training = start(tmp_path / "run", [*pair_options, f"shards={triplet_shards}", "max_steps=1"])
    training.succeed()
    assert "objective=pairs: the hard negatives of nli are not used; triplets uses them" in training.output


def test_a_shape_beside_a_model_that_has_its_own(
    tmp_path: Path, start: Start, pair_options: list[str], pair_run: RunFolder, t5_folder: Path
) -> None:
    training = start(tmp_path / "run", [*pair_options, f"init={pair_run.path}", "max_steps=1"])
    training.succeed()
    unused = "model.vocab_size=400 model.hidden_size=32 model.num_layers=1 is not used"
    assert f"{pair_run.path} has a shape of its own: {unused}" in training.output
    both = [option for option in pair_options if not option.startswith("model.")]
    training = start(tmp_path / "both", [*both, f"init={pair_run.path}", f"model.path={t5_folder}", "max_steps=1"])
    training.succeed()
    assert f"init={pair_run.path} takes the place of model.path={t5_folder}" in training.output
    assert "shape of its own" not in training.output


def test_too_few_negatives_are_counted_and_stop_nothing(
    tmp_path: Path, start: Start, triplet_options: list[str], triplet_shards: Path
) -> None:
    training = start(tmp_path / "run", [*triplet_options, "num_negatives=4", "max_steps=2"], 2)
    run = training.succeed()
    assert (
        "data set nli: 40 of the 40 samples looked at have fewer than num_negatives=4 negatives (the fewest: 3)"
        in training.output
    )
    assert [line["negatives_short"] for line in read_lines(run.metrics)] == [8, 8]
    (reader,) = open_datasets(triplet_shards).values()
    assert [sample.key for sample in reader.spread(7)] == [reader.key(i * 40 // 7) for i in range(7)]
