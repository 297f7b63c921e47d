"""Data sets smaller than the global batch train, by their own size; neither processes nor a restart change that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jemb.app.cli import main
from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.data.module import PairData
from jemb.model import make_tiny
from jemb.shards import open_datasets
from tests.helpers.training_runs import SMALL, Training, losses, read_lines

Start = Callable[..., Training]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> list[str]:
    """A data set that is large enough, one of 40 samples, whose batches have 32, and one that is too small for any."""
    folder = tmp_path_factory.mktemp("small")
    for name, size in (("large", 90), ("small", 40), ("tiny", 31)):
        make_dataset(folder, name, size)
    own = [f"shards={folder}", "global_batch_size=64", "weights.small=3", "max_steps=6", "schedule=constant"]
    return [*SMALL, *own, "log_samples=true", "warmup_steps=0"]


@pytest.mark.slow
def test_by_their_own_size(
    tmp_path: Path, start: Start, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    training = start(tmp_path / "alone", options)
    alone = training.succeed()
    warning = "small_datasets=own_size: left out, having fewer than the 32 rows of a batch: data set tiny (31)"
    assert warning in training.output
    samples = read_lines(alone.samples)
    sizes = {"large": 64, "small": 32}
    assert {line["dataset"]: len(set(line["ids"])) for line in samples} == sizes
    assert all(len(line["ids"]) == sizes[line["dataset"]] for line in samples)
    for line in alone.read_metrics():
        assert line["negatives_per_query"] + line["hidden_candidates"] / sizes[line["dataset"]] == pytest.approx(
            sizes[line["dataset"]] - 1
        )
    assert sorted(alone.read_record()["datasets"]) == ["large", "small"], "what was left out has taught it nothing"

    start(tmp_path / "two", [*options, "max_steps=3"]).succeed()
    two = start(tmp_path / "two", options, processes=2).succeed()
    assert read_lines(two.samples) == samples
    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)

    assert main(["train", f"output={tmp_path}/dry", *options, "dry_run=true"]) == 0
    shown = capsys.readouterr()
    assert "data set small: 40 samples, 57.1 % of the batches, " in shown.out
    assert " passes, batches of 32\n" in shown.out
    assert "tiny" not in shown.out
    assert warning in shown.err


@pytest.mark.slow
def test_joined_and_refused(
    tmp_path: Path, start: Start, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    joining = [*options, "small_datasets=join"]
    start(tmp_path / "joined", [*joining, "max_steps=3"]).succeed()
    run = start(tmp_path / "joined", joining, processes=2).succeed()
    alone = start(tmp_path / "alone", joining).succeed()
    assert read_lines(run.samples) == read_lines(alone.samples), "on two processes, from a checkpoint on"
    record = run.read_record()["datasets"]
    assert sorted(record) == ["large", "small", "tiny"]
    assert record["small"]["share"] / record["tiny"]["share"] == pytest.approx(40 / 31)
    folder = options[len(SMALL)].removeprefix("shards=")
    keys = {f"{name}/{sample.key}" for name, reader in open_datasets(folder).items() for sample in reader}
    joined = [line for line in read_lines(run.samples) if line["dataset"] == "joined-pairs"]
    assert joined
    assert all(len(line["ids"]) == 64 and set(line["ids"]) <= keys for line in joined)

    assert main(["train", f"output={tmp_path}/dry", *joining, "dry_run=true"]) == 0
    shown = capsys.readouterr()
    assert "data set joined-pairs: 71 samples, " in shown.out
    assert "small_datasets=join: joined-pairs holds data set small (40), tiny (31)" in shown.err
    assert main(["train", f"output={tmp_path}/dry", *options, "small_datasets=refuse"]) == 2
    assert "global_batch_size=64 is larger than data set small (40), tiny (31)" in capsys.readouterr().err


def test_in_a_trainer_of_ones_own(options: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Without our runner it is said as well."""
    folder = options[len(SMALL)].removeprefix("shards=")
    assert sorted(PairData(folder, global_batch_size=64).readers) == ["large", "small"]
    warning = "small_datasets=own_size: left out, having fewer than the 32 rows of a batch: data set tiny (31)"
    assert warning in caplog.messages


def test_joined_data_sets_have_the_same_prompts(options: list[str]) -> None:
    encoder = make_tiny(["some words to learn"], ModelConfig(), seed=0, max_length=16)
    folder = options[len(SMALL)].removeprefix("shards=")
    encoder.prompts = {"small-query": "ask: ", "tiny-query": "ask: "}
    data = PairData(folder, global_batch_size=64, small_datasets="join", encoder=encoder, workers=0)
    assert data._collate(encoder, None).dataset_prompts == {"joined-pairs": ("ask: ", ""), "large": ("", "")}
    encoder.prompts = {"small-query": "ask: "}
    with pytest.raises(InputError, match=r"in joined-pairs have different prompts \(small, tiny\)"):
        data.train_dataloader()
