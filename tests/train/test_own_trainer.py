"""The parts of jemb in a Trainer of one's own: the losses of `jemb train`, under every strategy, also continued."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from jemb import Checkpoints, CopyToStorage, EmbeddingModule, PairData
from jemb.config import ModelConfig
from jemb.core.errors import InputError
from jemb.model import load_weights, make_tiny
from jemb.run_folder import OPTIMIZER, WEIGHTS, RunFolder
from jemb.train.strategies.choice import FSDP_ON_CPU
from tests.helpers import own_trainer
from tests.helpers.object_store import BUCKET, FaultyProxy
from tests.helpers.own_trainer import STEPS, fit, keep
from tests.helpers.ranks import on_ranks
from tests.helpers.training_runs import Training, losses, read_lines

STRATEGIES = ["deepspeed_2", *(["fsdp"] if FSDP_ON_CPU else [])]


def norms(run: RunFolder) -> list[float]:
    return [line["grad_norm"] for line in read_lines(run.metrics)]


def test_one_process(tmp_path: Path, pair_run: RunFolder, pair_shards: Path) -> None:
    found, lengths = fit(str(pair_run.start), str(pair_shards), str(tmp_path))
    assert found == pytest.approx(losses(pair_run), abs=1e-5)
    assert lengths == pytest.approx(norms(pair_run), rel=1e-4), "of the global batch, before clipping"


@pytest.mark.slow
def test_a_script_with_ddp(tmp_path: Path, pair_run: RunFolder, pair_shards: Path, pair_options: list[str]) -> None:
    """`python script.py`, whose Trainer starts the second process; what its logger got, against `jemb train` in one
    process and in two of torchrun."""
    command = [sys.executable, own_trainer.__file__, str(pair_run.start), str(pair_shards), str(tmp_path), "ddp", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "log" / "version_0" / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = [float(line["loss"]) for line in lines]
    assert found == pytest.approx(losses(pair_run), abs=1e-5)
    assert "loss_terms/query_to_positive" in lines[0]
    together = Training(tmp_path / "run", pair_options, 2).succeed()
    assert found == pytest.approx(losses(together), abs=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(tmp_path: Path, pair_run: RunFolder, pair_shards: Path, strategy: str) -> None:
    given = str(pair_run.start), str(pair_shards), str(tmp_path / "kept"), strategy, 2
    found, lengths = on_ranks(tmp_path, 2, fit, *given)[0]
    assert found == pytest.approx(losses(pair_run), abs=1e-5)
    assert lengths == pytest.approx(norms(pair_run), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "before", "after"),
    [
        ("auto", 1, 1),
        ("ddp", 2, 1),
        *(pytest.param(strategy, 2, 2, marks=pytest.mark.soak) for strategy in STRATEGIES),
    ],
)
def test_killed_and_continued(
    tmp_path: Path, pair_run: RunFolder, pair_shards: Path, strategy: str, before: int, after: int
) -> None:
    """From the checkpoint of step 8: the losses of all steps behind it, also on another number of processes."""
    given = str(pair_run.start), str(pair_shards), str(tmp_path / "kept")
    first = on_ranks(tmp_path / "one", before, fit, *given, strategy, before, 10)[0][0]
    second = on_ranks(
        tmp_path / "two", after, fit, *given, strategy if after > 1 else "auto", after, STEPS, "step=8.ckpt"
    )[0][0]
    assert first == pytest.approx(losses(pair_run)[:10], abs=1e-5)
    assert second == pytest.approx(losses(pair_run)[8:], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_the_callbacks_of_jemb(tmp_path: Path, pair_run: RunFolder, pair_shards: Path, before: int) -> None:
    """Stopped in step 10 by a signal to one process, and continued in one: each step once, in the log too, and every
    evaluation. A fit that is done does nothing more."""
    task = f"sts:{tmp_path / 'sts.jsonl'}"
    rows = [{"sentence1": f"query {n}", "sentence2": f"answer {n % 7}", "score": n % 5} for n in range(20)]
    (tmp_path / "sts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given, kept = (str(pair_run.start), str(pair_shards), str(tmp_path / "kept")), RunFolder(tmp_path / "kept")
    asked = on_ranks(tmp_path / "one", before, keep, *given, before, 10, task)
    assert asked == [False] * (before - 1) + [True]
    assert [line["step"] for line in kept.read_metrics()] == list(range(1, 11))
    assert [step for step, _ in kept.checkpoints()][-2:] == [8, 10]
    for _ in range(2):
        assert not keep(*given, task=task)
        assert losses(kept) == pytest.approx(losses(pair_run), abs=0 if before == 1 else 1e-5)
        assert kept.samples.read_bytes() == pair_run.samples.read_bytes()
        assert [line["step"] for line in kept.read_evaluations()] == [0, 5, 10, 15, 20]
        best = max(kept.read_evaluations()[1:], key=lambda line: line["value"])["step"]
        assert {best, 20} <= {step for step, _ in kept.checkpoints()}
    newest, expected = kept.checkpoints()[-1][1], pair_run.checkpoints()[-1][1]
    if before == 1:
        for name in (WEIGHTS, OPTIMIZER):
            assert (newest / name).read_bytes() == (expected / name).read_bytes(), "as jemb train has it"


def test_a_folder_at_a_url(pair_run: RunFolder, pair_shards: Path, proxy: FaultyProxy) -> None:
    """The machine is lost with its folder: another one goes on from what was copied."""
    given = str(pair_run.start), str(pair_shards), f"s3://{BUCKET}/mine"
    assert keep(*given, asked_at=10)
    folder = CopyToStorage(given[2]).folder
    shutil.rmtree(folder)
    assert not keep(*given)
    assert losses(RunFolder(folder)) == losses(pair_run)


def test_what_checkpoints_cannot_do(tmp_path: Path, pair_run: RunFolder, pair_shards: Path) -> None:
    def refused(module: lightning.LightningModule, **more: Any) -> str:
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
        trainer = lightning.Trainer(max_steps=1, callbacks=[Checkpoints(tmp_path)], **quiet, **more)
        with pytest.raises(InputError) as error:
            trainer.fit(module, PairData(pair_shards, global_batch_size=8, workers=0))
        return str(error.value)

    assert "not with BoringModel" in refused(BoringModel())
    assert "micro_batch_size" in refused(EmbeddingModule(str(pair_run.start)), accumulate_grad_batches=2)


def test_weights_of_another_model(tmp_path: Path, pair_run: RunFolder) -> None:
    other = make_tiny(
        ["a b c"] * 9, ModelConfig(hidden_size=8, num_layers=1, vocab_size=300, num_heads=2), seed=0, max_length=8
    )
    with pytest.raises(InputError, match=r"not the weights of this model \(\d+ differ: .* has the shape"):
        load_weights(other, pair_run.checkpoints()[-1][1])


def test_accumulated_batches_that_do_not_fill_a_pass(tmp_path: Path, pair_run: RunFolder, pair_shards: Path) -> None:
    """At the end of a pass Lightning takes a step with what it has; the next one begins behind it."""
    seen: list[int] = []
    once = [0, 1, 2, 3, 4]

    class See(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch.step)

    def fit_passes(number: int, ckpt_path: Path | None = None) -> lightning.Trainer:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=number, accumulate_grad_batches=3, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, callbacks=[See()],
        )  # fmt: skip
        module = EmbeddingModule(str(pair_run.start), schedule="constant", warmup_steps=0)
        trainer.fit(module, PairData(pair_shards, global_batch_size=8, workers=0, steps=5), ckpt_path=ckpt_path)
        return trainer

    fit_passes(1).save_checkpoint(tmp_path / "one.ckpt")
    fit_passes(2, tmp_path / "one.ckpt")
    assert seen == [*once, *(step + 5 for step in once)]
    seen.clear()
    fit_passes(2)
    assert seen == [*once, *(step + 5 for step in once)]


def fit_alone(model: str, shards: str) -> str:
    """What a Trainer says that was not told of the other processes."""
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False)
    with pytest.raises(InputError) as error:
        trainer.fit(EmbeddingModule(model), PairData(shards, global_batch_size=8, workers=0))
    return str(error.value)


def test_a_trainer_that_does_not_know_of_the_other_processes(
    tmp_path: Path, pair_run: RunFolder, pair_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two tasks of srun would train by itself, in silence."""
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}
    for name, value in task.items():
        monkeypatch.setenv(name, value)
    assert "the Trainer has 1 processes, but 2 were started" in fit_alone(str(pair_run.start), str(pair_shards))


def test_options_of_the_module(pair_run: RunFolder) -> None:
    with pytest.raises(InputError, match="temprature"):
        EmbeddingModule(str(pair_run.start), temprature=0.1)
    with pytest.raises(InputError, match="there is no such objective"):
        EmbeddingModule(str(pair_run.start), objective="cosent")
    with pytest.raises(InputError, match="'learning_rate': got -1"):
        EmbeddingModule(str(pair_run.start), learning_rate=-1.0)
    with pytest.raises(InputError, match="'global_batch_size': got 0"):
        PairData("shards", global_batch_size=0)
    with pytest.raises(InputError, match="'checkpoint_every': got 0"):
        Checkpoints("folder", every=0)
    module = EmbeddingModule(str(pair_run.start), objective="triplets", margin=0.1)
    assert module.objectives["triplets"].negatives
