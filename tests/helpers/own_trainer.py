"""A stranger's script: the parts of jemb in a `lightning.Trainer` of their own, as `python own_trainer.py …` starts it.

It knows nothing of the run folder, the launcher or the commands.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy

import jemb
from jemb import EmbeddingModule, PairData
from jemb.train.strategies.deepspeed import ZeroStrategy

STEPS = 20


class Mine(lightning.Callback):
    """What a user might want to know of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["loss"]))
        self.norms.append(pl_module.grad_norm)


def strategy_of(name: str) -> Any:
    if name == "fsdp":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    return ZeroStrategy(int(name[-1])) if name.startswith("deepspeed") else name


def fit(
    model: str,
    shards: str,
    folder: str,
    strategy: str = "auto",
    devices: int = 1,
    stop: int = STEPS,
    going_on: str = "",
) -> tuple[list[float], list[float]]:
    """(loss, gradient norm) of each step. stop: the step behind which it is as if killed, a checkpoint being there."""
    mine = Mine()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy_of(strategy),
        max_steps=stop,
        max_epochs=-1,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name="log", version=0),
        callbacks=[mine, ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = EmbeddingModule(model, objective="pairs", temperature=0.05, max_steps=STEPS)
    data = PairData(shards, global_batch_size=8, workers=0)
    trainer.fit(module, data, ckpt_path=str(Path(folder) / going_on) if going_on else None)
    return mine.losses, mine.norms


class Ask(lightning.Callback):
    """The last process gets a signal while it does this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.step + 1 == self.step and trainer.global_rank == trainer.world_size - 1:
            signal.raise_signal(signal.SIGTERM)


def keep(model: str, shards: str, output: str, devices: int = 1, asked_at: int = 0, task: str = "") -> bool:
    """With the callbacks of jemb, in a Trainer that knows nothing else. Whether this process was asked to stop."""
    storage, stop = jemb.CopyToStorage(output), jemb.StopOnSignal()
    callbacks = [
        storage,
        Ask(asked_at),
        stop,
        jemb.RunLog(storage.folder, log_samples=True),
        jemb.Checkpoints(storage.folder, every=4),
        *([jemb.evaluate_in_loop(storage.folder, [task], every=5)] if task else []),
    ]
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = EmbeddingModule(model, objective="pairs", temperature=0.05)
    trainer.fit(module, PairData(shards, global_batch_size=8, workers=0))
    return stop.request.wanted()


if __name__ == "__main__":
    fit(*sys.argv[1:5], devices=int(sys.argv[5]))
