"""Checkpoints: whole or absent, the newest few kept, and written when the process is asked to stop.

A checkpoint is a folder `step-NNNNNNNN` with Lightning's `state.ckpt` (weights, optimiser, schedule, loop counters) and
`position.json`: the step and the plan's fingerprint, which together are the whole data position.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import lightning

from jemb.errors import InputError
from jemb.files import read_json, sync_folder, write_json
from jemb.model.weights import STATE, read_weights
from jemb.run_folder import RunFolder
from jemb.train.module import EmbeddingModule

log = logging.getLogger(__name__)

POSITION = "position.json"


@dataclass(slots=True)
class StopRequest:
    """Set by SIGINT, SIGTERM or SIGUSR1; the step that runs is finished, a checkpoint written, then training ends."""

    signal: int | None = None
    handlers: dict[int, Any] = field(default_factory=dict)

    def wanted(self) -> bool:
        return self.signal is not None

    def listen(self) -> None:
        """Install the handlers, and remember the former ones."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self.handlers[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:  # a second Ctrl-C: at once
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens to signals inside the block and restores the former handlers after it."""
    request = StopRequest()
    request.listen()
    try:
        yield request
    finally:
        for number, handler in request.handlers.items():
            signal.signal(number, handler)


class Checkpoints(lightning.Callback):
    """Saves every `every` steps, when a stop is agreed, and at the last step; keeps the newest `keep`."""

    def __init__(self, run: RunFolder, *, plan: str, every: int, keep: int, stop: int) -> None:
        self.run, self.plan = run, plan
        self.every, self.keep, self.stop = every, keep, stop

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, EmbeddingModule)
        step = trainer.global_step
        if pl_module.stop:
            trainer.should_stop = True
        if step % self.every == 0 or step == self.stop or pl_module.stop:
            self._save(trainer, step)

    def _save(self, trainer: lightning.Trainer, step: int) -> None:
        final = self.run.checkpoint_folder / f"step-{step:08d}"
        partial = self.run.checkpoint_folder / f".{final.name}.partial"
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        trainer.strategy.barrier()
        trainer.save_checkpoint(partial / STATE)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            write_json(partial / POSITION, {"step": step, "plan": self.plan, "world_size": trainer.world_size})
            with (partial / STATE).open("rb") as file:
                os.fsync(file.fileno())
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_folder(final.parent)
            for _, old in self.run.checkpoints()[: -self.keep]:
                # Renamed first: a half-removed folder must not look like a checkpoint.
                shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")), ignore_errors=True)


def remove_leftovers(run: RunFolder) -> None:
    """Delete what a killed process left of the checkpoints and folders it was writing or removing."""
    for pattern in ("checkpoints/.*.partial", ".start.*", ".model.*"):
        for path in run.path.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def find_start(run: RunFolder, plan: str) -> tuple[int, Path | None]:
    """(steps done, folder) of the newest readable checkpoint; (0, None) where there is none.

    A damaged one is put aside as `damaged-step-…`, and the one before it is taken. Raises InputError when the
    checkpoint was made with another batch plan: other data, seed, weights or batch size.
    """
    for step, folder in reversed(run.checkpoints()):
        try:
            position = read_json(folder / POSITION)
            read_weights(folder)
        except InputError as error:
            aside = folder.rename(folder.with_name(f"damaged-{folder.name}-{time.time_ns()}"))
            log.warning("%s; put aside as %s, going on from the checkpoint before it", error, aside.name)
            continue
        if position["plan"] != plan:
            raise InputError(
                f"{folder}: made with batch plan {position['plan'][:16]}…, but these shards, seed, weights and "
                f"global_batch_size give {plan[:16]}…. Restore them, or start anew with another output"
            )
        return step, folder
    return 0, None
