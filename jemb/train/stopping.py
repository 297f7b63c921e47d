"""The end of a run on request: a signal to any of its processes ends all of them after the step that runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import lightning
import torch

from jemb.distributed import mean_over_ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class StopRequest:
    """Set by SIGINT, SIGTERM or SIGUSR1."""

    signal: int | None = None
    handlers: dict[int, Any] = field(default_factory=dict)

    def wanted(self) -> bool:
        return self.signal is not None

    def listen(self) -> None:
        """Install the handlers, and remember those of others."""
        for number in SIGNALS:
            self.handlers.setdefault(number, signal.signal(number, self._request))

    def restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

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
        request.restore()


class StopOnSignal(lightning.Callback):
    """Ends `Trainer.fit` after the step that runs, on all ranks together, once SIGINT, SIGTERM or SIGUSR1 has reached
    one of them. Stands before callbacks that save. `request.signal` is it, for a script that shall not end as if done.

        lightning.Trainer(callbacks=[jemb.StopOnSignal(), jemb.Checkpoints("mine")])

    request: one that listens already, from before the fit. checkpoint: without `Checkpoints`, a path where the Trainer
    shall save when it is stopped, for `fit(…, ckpt_path=…)` to go on from.
    """

    def __init__(self, request: StopRequest | None = None, *, checkpoint: str | None = None) -> None:
        self.request, self.own, self.checkpoint = request or StopRequest(), request is None, checkpoint

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.request.listen()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning's own handler, just installed, ends a fit without a checkpoint, and where one rank alone gets the
        # signal waits for the others in a broadcast. No option leaves it out; from here on ours stands in its place.
        self.request.listen()
        trainer.should_stop |= self._wanted()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._wanted():
            trainer.should_stop = True
            if self.checkpoint:
                trainer.save_checkpoint(self.checkpoint)

    def _wanted(self) -> bool:
        """By any rank."""
        return bool(mean_over_ranks(torch.tensor([float(self.request.wanted())])).item())

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.own:
            self.request.restore()
