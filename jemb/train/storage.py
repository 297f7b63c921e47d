"""A run behind a URL: it works in a folder on this machine, which is fetched at the start and copied as it goes.

Without a URL the folder is the run, and all here does nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning

from jemb.distributed import rank
from jemb.mirror import mirror_of
from jemb.run_folder import RunFolder
from jemb.tables.places import to_local
from jemb.train.checkpoints import Checkpoints
from jemb.train.processes import Processes, agreed, on_rank_zero

log = logging.getLogger(__name__)


class Storage:
    """run: the folder to work in, for what `output` names."""

    def __init__(self, output: str) -> None:
        self.mirror = mirror_of(output)
        self.run = RunFolder(self.mirror.folder if self.mirror else Path(to_local(output)))

    def fetch(self) -> None:
        """On rank 0, under the run's lock: bring the run here where it is further on there."""
        if self.mirror:
            self.mirror.fetch_run()

    def share_start(self, processes: Processes, checkpoint: Path | None) -> Path | None:
        """Once rank 0 has written the start of the run: bring it to machines that do not share its folder. Returns the
        checkpoint's path on this machine."""
        mirror = self.mirror
        if mirror is None:
            return checkpoint
        on_rank_zero(mirror.push)  # a URL that cannot be written to is found now
        record = on_rank_zero(self.run.record.read_bytes)

        def fetch() -> None:
            if not processes.info.local_rank:
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


class CopyToStorage(lightning.Callback):
    """Copies the run to its URL after each checkpoint, while all ranks wait; what goes wrong is said, and copied with
    the next one. Stands behind `checkpoints`."""

    def __init__(self, storage: Storage, checkpoints: Checkpoints) -> None:
        self.mirror, self.checkpoints, self.copied = storage.mirror, checkpoints, checkpoints.steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.mirror and self.checkpoints.steps > self.copied:
            on_rank_zero(self.mirror.try_push)
            self.copied = self.checkpoints.steps
