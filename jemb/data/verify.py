"""Shards, indexes and stored tokens compared with their checksums while a run reads them, in the background.

A run begins at once, and a thread reads each shard a second time, whole, in the order in which the plan needs them. No
checkpoint is written before all that its steps have read is found to be what it should be. So a run of terabytes starts
at once, and what has changed on a disk never gets into a model that is kept.

Before: `plan.py` names the shards of each step. After: `module.py` asks with each batch whether there is a problem,
`train/checkpoints.py` waits for the steps that it saves.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from jemb.core.errors import Failure, InputError
from jemb.data.plan import BatchPlan
from jemb.shards import ShardReader, TokenReader

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds of waiting after which it is said what is waited for."""


class Verifier:
    """Verifies what the steps from `start` to `stop` read, once each.

    share: (number of this process on its machine, how many there are), each of which does its part of the shards.
    taught: data sets whose files beside the shards are read, too.
    The thread starts with the first question, in the process that asks: ask after loader processes were forked.
    """

    def __init__(
        self,
        plan: BatchPlan,
        readers: Mapping[str, ShardReader],
        tokens: Mapping[str, TokenReader] | None,
        *,
        start: int,
        stop: int,
        share: tuple[int, int] = (0, 1),
        taught: Collection[str] = (),
    ) -> None:
        self.plan, self.readers, self.tokens, self.taught = plan, readers, tokens, taught
        self.start, self.stop, self.share = start, stop, share
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.upto = start
        """What the steps before this one read has been verified, as far as it is this process's part."""
        self.problem: InputError | Failure | None = None
        self.bytes = 0

    def check(self) -> None:
        """Raises the `InputError` of what was found by now."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, daemon=True)  # the process may end meanwhile
            self.thread.start()
        if self.problem:
            raise self.problem

    def verified(self, step: int, seconds: float = PATIENCE) -> bool:
        """Whether all is verified that the steps before `step` read; waits up to so many seconds for it. Raises as
        `check`."""
        self.check()
        with self.changed:
            self.changed.wait_for(lambda: self.problem or self.upto >= step, seconds)
        self.check()
        if self.upto < step:
            whole = sum(self.readers[source.name].manifest.bytes for source in self.plan.sources)
            log.info(
                "the checkpoint of step %d waits until the shards of its steps are compared with their checksums "
                "(%.1f of at most %.1f GB)", step, self.bytes / 1e9, whole / self.share[1] / 1e9
            )  # fmt: skip
        return self.upto >= step

    def _work(self) -> None:
        began, shards, taught = time.perf_counter(), 0, set(self.taught)
        try:
            for step, name, numbers in self._needed():
                reader = self.readers[name]
                if name in taught and self._is_ours(reader.manifest.fingerprint):
                    self.bytes += reader.verify_files()
                taught.discard(name)
                for number in numbers:
                    if self._is_ours(f"{number} {reader.manifest.shards[number].sha256}"):
                        # Of remote shards those that are here: fetching compares, too.
                        self.bytes += reader.verify_shard(number, fetch=False)
                        self.bytes += self.tokens[name].verify_part(number) if self.tokens else 0
                        shards += 1
                self._reached(step + 1)
            self._reached(self.stop)
        except (InputError, Failure) as error:
            self.problem = error
        except OSError as error:
            self.problem = InputError(f"{error.filename}: cannot be read ({error.strerror})")
        except Exception as error:  # whatever it is, nobody may wait for this thread for ever
            self.problem = Failure(f"the shards could not be verified ({error!r})")
        with self.changed:
            self.changed.notify_all()
        if not self.problem:
            log.info(
                "%d shards are what their checksums say: %.2f GB read beside the training in %.0f s, %.0f s of CPU",
                shards, self.bytes / 1e9, time.perf_counter() - began, time.thread_time()
            )  # fmt: skip

    def _reached(self, step: int) -> None:
        with self.changed:
            self.upto = step
            self.changed.notify_all()

    def _is_ours(self, what: str) -> bool:
        """Decides which process of a machine verifies it: the same in all, whatever the order."""
        return zlib.crc32(what.encode()) % self.share[1] == self.share[0]

    def _needed(self) -> Iterator[tuple[int, str, list[int]]]:
        """(step, its data set, numbers of the shards that it is the first to read), until there are no others."""
        shards = {source.name: self.readers[source.name].manifest.shards for source in self.plan.sources}
        ends = {name: np.cumsum([shard.num_samples for shard in infos]) for name, infos in shards.items()}
        left = {name: set(range(len(infos))) for name, infos in shards.items()}
        for step in range(self.start, self.stop):
            if not any(left.values()):
                return
            if self.plan.shuffle_shards:
                name, windows = self.plan.windows(step)
                found = {int(shard) for window in windows for shard in self.plan.window_shards(name, window)}
            else:
                name, rows = self.plan.batch(step)
                found = set(np.searchsorted(ends[name], rows, side="right").tolist()) if left[name] else set()
            new = sorted(found & left[name])
            left[name] -= found
            yield step, name, new
