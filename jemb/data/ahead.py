"""Remote shards, fetched before the steps that need them: the plan knows the whole future.

Before: `plan.py` names the windows of coming steps. After: `sampler.py` finds their shards in the machine's cache. Only
time depends on it: a shard that is missing then is fetched by whoever needs it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping

from torch.utils.data import get_worker_info

from jemb.core.errors import Failure, InputError
from jemb.data.plan import BatchPlan, Window
from jemb.shards import RemoteTars, ShardInfo, ShardReader

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Shards fetched at the same time."""

Key = tuple[str, Window]
"""(data set, window)."""


class ReadAhead:
    """Fetches what steps up to `steps` later need, but no more at a time than the cache holds.

    stop: the step before which the run ends. lag: steps that other loader processes may be behind. Its threads start in
    the process that first calls `reached`: the loader's first one, or the trainer where there is none. May be pickled
    and forked before that.
    """

    def __init__(
        self, plan: BatchPlan, readers: Mapping[str, ShardReader], *, steps: int, stop: int, lag: int = 0
    ) -> None:
        self.plan, self.steps, self.stop, self.lag = plan, steps, stop, lag
        self.remote: dict[str, list[tuple[RemoteTars, ShardInfo]]] = {
            name: [(shard.tars, shard.info) for shard in reader.shards if shard.tars]
            for name, reader in readers.items()
            if reader.tars
        }
        self.changed: threading.Condition | None = None

    def reached(self, step: int) -> None:
        """The loader reads `step` now. Only the first of its processes takes part."""
        worker = get_worker_info()
        if not self.remote or (worker is not None and worker.id):
            return
        if self.changed is None:
            self._start(step)
        assert self.changed is not None
        with self.changed:
            self.position = step
            self.changed.notify_all()

    def close(self) -> None:
        """Begin nothing more; what is being fetched ends by itself."""
        if changed := self.changed:
            with changed:
                self.changed = None
                changed.notify_all()

    def _start(self, step: int) -> None:
        self.changed = threading.Condition()
        self.position = self.walked = step
        self.needed: dict[Key, int] = {}  # the last step known to need it
        self.latest: dict[str, set[Key]] = {}  # of each data set the windows of its last walked batch
        self.bytes = 0
        self.queue: deque[tuple[RemoteTars, ShardInfo]] = deque()
        for _ in range(AT_ONCE):  # daemons: the process may end while they wait for a server
            threading.Thread(target=self._work, args=(self.changed,), daemon=True).start()

    def _work(self, changed: threading.Condition) -> None:
        while (found := self._next(changed)) is not None:
            tars, shard = found
            try:
                tars.fetch(shard)
            except (InputError, Failure) as error:
                log.debug("fetching ahead: %s", error)  # the step that needs it says so, or has more luck

    def _next(self, changed: threading.Condition) -> tuple[RemoteTars, ShardInfo] | None:
        """The next shard to fetch, waited for; None when there will be none."""
        with changed:
            while changed is self.changed:
                self._forget()
                if self.queue:
                    return self.queue.popleft()
                if self.walked >= self.stop:
                    return None
                if not (self.walked <= self.position + self.steps and self._walk()):
                    changed.wait()
            return None

    def _walk(self) -> bool:
        """Queue what the next step needs; False where the cache has no room for it beside the rest."""
        name, windows = self.plan.windows(self.walked)
        if name in self.remote:
            cache = self.remote[name][0][0].cache
            keys = {(name, window) for window in windows}
            new = sorted(keys - self.needed.keys())
            more = sum(self._size(key) for key in new)
            if self.bytes + more > cache.limit and self.walked > self.position:
                return False
            self.bytes += more
            self.needed |= dict.fromkeys(keys, self.walked)
            self.latest[name] = keys
            if new:
                self._touch()
            for key in new:
                self.queue.extend(self._shards(key))
        self.walked += 1
        return True

    def _forget(self) -> None:
        """Windows that no step needs any more. Those of each data set's last batch stay: its next one may be far."""
        for key, last in [*self.needed.items()]:
            if last < self.position - self.lag and key not in self.latest[key[0]]:
                del self.needed[key]
                self.bytes -= self._size(key)

    def _touch(self) -> None:
        """Let others go first when the cache makes room for what was queued."""
        for key in self.needed:
            self.remote[key[0]][0][0].cache.touch(shard for _, shard in self._shards(key))

    def _size(self, key: Key) -> int:
        return sum(shard.bytes for _, shard in self._shards(key))

    def _shards(self, key: Key) -> list[tuple[RemoteTars, ShardInfo]]:
        shards = self.remote[key[0]]
        return [shards[number] for number in self.plan.window_shards(*key).tolist()]
