"""A run on machines that are taken away: it ends well when a signal asks for it, and lies behind a URL where it may.

A signal to any of the processes ends all of them after the step that runs. A run behind a URL works in a folder on this
machine, which is fetched at the start and copied as it goes; without a URL the folder is the run.
"""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch

from jemb.core.files import write_json
from jemb.distributed import mean_over_ranks, rank
from jemb.distributed.ranks import agreed, on_rank_zero
from jemb.mirror import mirror_of
from jemb.run_folder import RunFolder
from jemb.tables.places import to_local
from jemb.train.checkpoints import Checkpoints

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class StopRequest:
    """Set by SIGINT, SIGTERM or SIGUSR1, from `listen` to `restore`, or inside its block."""

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

    def __enter__(self) -> StopRequest:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:  # a second Ctrl-C: at once
            raise KeyboardInterrupt
        self.signal = number


class StopOnSignal(lightning.Callback):
    """Ends `Trainer.fit` after the step that runs, on all ranks together, once SIGINT, SIGTERM or SIGUSR1 has reached
    one of them. Stands before callbacks that save. `request.signal` is it, for a script that shall not end as if done.

        lightning.Trainer(callbacks=[jemb.StopOnSignal(), jemb.Checkpoints("mine")])

    request: one that listens already, from before the fit.
    """

    def __init__(self, request: StopRequest | None = None) -> None:
        self.request, self.own = request or StopRequest(), request is None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.request.listen()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning's own handler, just installed, ends a fit without a checkpoint, and where one rank alone gets the
        # signal waits for the others in a broadcast. No option leaves it out; from here on ours stands in its place.
        self.request.listen()
        trainer.should_stop |= self._wanted()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.should_stop |= self._wanted()

    def _wanted(self) -> bool:
        """By any rank."""
        return bool(mean_over_ranks(torch.tensor([float(self.request.wanted())])).item())

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.own:
            self.request.restore()


class CopyToStorage(lightning.Callback):
    """Copies `folder`, where the other callbacks shall write, to a URL after each checkpoint, while all ranks wait, and
    at the end of the fit; what goes wrong between is said, and copied with the next one. Where the URL is further on
    than the folder, as on a new machine, the fit begins by fetching it. Stands before the others.

        storage = jemb.CopyToStorage("s3://bucket/mine")
        lightning.Trainer(callbacks=[storage, jemb.RunLog(storage.folder), jemb.Checkpoints(storage.folder)])

    output: `s3://…`, `gs://…`, or a folder, which is used as it is. Raises InputError where something else is there.
    """

    def __init__(self, output: str) -> None:
        self.mirror = mirror_of(output)
        self.folder = self.mirror.folder if self.mirror else Path(to_local(output))
        self.run, self.fetched = RunFolder(self.folder), False

    def fetch(self) -> None:
        """On rank 0, under the run's lock: bring the run here where it is further on there."""
        self.fetched = True
        if self.mirror:
            self.mirror.fetch_run()

    def share_start(self, local_rank: int, checkpoint: Path | None) -> Path | None:
        """Once rank 0 has written the start of the run: bring it to machines that do not share its folder. Returns the
        checkpoint's path on this machine."""
        mirror = self.mirror
        self.fetched = True
        if mirror is None:
            return checkpoint
        on_rank_zero(mirror.push)  # a URL that cannot be written to is found now
        record = on_rank_zero(self.run.record.read_bytes)

        def fetch() -> None:
            if not local_rank:
                mirror.fetch_start(record, checkpoint.name if checkpoint else None)

        agreed(fetch, lambda _: {})
        return self.run.checkpoint_folder / checkpoint.name if checkpoint else None

    @contextmanager
    def copied(self) -> Iterator[None]:
        """What the block leaves in the folder is copied at its end, also after an error."""
        mirror = self.mirror if rank() == 0 else None
        try:
            yield
        except (Exception, KeyboardInterrupt):
            if mirror:
                mirror.try_push()
            raise
        if mirror:
            mirror.push()
            log.info("the run is copied to %s", mirror.url)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.mirror is None:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.saved = self.mirror.try_push
        if not self.fetched:
            self.share_start(trainer.local_rank, on_rank_zero(self._start))

    def _start(self) -> Path | None:
        """What is there, and the newest checkpoint; run.json, by which it is known again, is made where there is
        none."""
        self.fetch()
        if not self.run.record.exists():
            write_json(self.run.record, {"id": uuid.uuid4().hex[:12]})
        found = self.run.checkpoints()
        return found[-1][1] if found else None

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self.mirror:
            on_rank_zero(self.mirror.try_push)
