"""Whole shards of remote data sets on this machine's disk: a bounded cache that all its processes share.

Before: `remote.py` knows which shards a data set has. After: `reader.py` reads from the descriptors this hands out.

A shard stands here under its sha256, so data sets may share and move. Whoever needs one that is missing holds its
`.part` file locked while it fetches it, and gives it its name when size and checksum are right; the others wait for
the lock, which goes with its process, however that ends. The size of a `.part` is that of the whole shard from the
start, so what all files have together is what is taken or promised, and it never exceeds the limit. Those not asked
for the longest go first. Nobody keeps a shard open: the bytes of an unlinked one are free at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from jemb.core.errors import Failure, InputError
from jemb.core.files import open_lock
from jemb.core.folders import locked
from jemb.shards.manifest import ShardInfo
from jemb.tables.transfer import fetch

SHARE_OF_FREE = 0.8
"""What a cache without a limit takes of the free disk."""
GB = 10**9


def cache_home() -> Path:
    """Where jemb keeps what can be fetched again: `$JEMB_CACHE`, else `jemb` in the user's cache folder."""
    if given := os.environ.get("JEMB_CACHE"):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jemb"


class ShardCache:
    """Shards in `folder`, at most `limit` bytes of them. May be pickled and forked; holds no files open.

    folder: `cache_home() / "shards"` for None. gigabytes: 10^9 bytes, as far as the disk has them; None: most of what
    is free there now, with what the cache has already. Raises `InputError` where the folder cannot be made or has no
    locks.
    """

    def __init__(self, folder: str | None = None, gigabytes: float | None = None) -> None:
        self.folder = Path(folder).expanduser().absolute() if folder else cache_home() / "shards"
        self._prefix = f"{self.folder}/"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                held = sum(size for _, size, _ in self._files())
        except OSError as error:
            raise InputError(f"cache_dir={self.folder}: cannot hold a cache ({error.strerror})") from None
        room = shutil.disk_usage(self.folder).free + held
        self.limit = min(round(gigabytes * GB), room) if gigabytes else int(room * SHARE_OF_FREE)

    def check(self, needed: int, hint: str) -> None:
        """Raise `InputError` where `needed` bytes at once are more than the limit."""
        if needed > self.limit:
            raise InputError(
                f"cache_gb={self.limit / GB:.3g}: the shards needed at once have {needed / GB:.3g} GB; {hint} (in "
                f"{self.folder})"
            )

    def open(self, shard: ShardInfo, url: str) -> int:
        """A descriptor of the whole shard, which the caller closes soon; fetched from `url` where it is not here.

        Raises `InputError` or `Failure` where it cannot be had.
        """
        while True:
            if (found := self.find(shard)) is not None or (found := self._fetch(shard, url)) is not None:
                return found

    def find(self, shard: ShardInfo) -> int | None:
        """The same of a shard that is here, else None."""
        try:  # for every sample: no Path, which costs as much as the system calls
            descriptor = os.open(f"{self._prefix}{shard.sha256}.tar", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size == shard.bytes:
            return descriptor
        os.close(descriptor)
        self._path(shard).unlink(missing_ok=True)  # somebody cut it off
        return None

    def forget(self, shard: ShardInfo) -> str:
        """Remove a shard whose bytes have changed; in words, what comes of it."""
        self._path(shard).unlink(missing_ok=True)
        return f"its copy {self._path(shard)} has changed, and was removed; the next start fetches it again"

    def touch(self, shards: Iterable[ShardInfo]) -> None:
        """Let these be the last to go, in this order."""
        for shard in shards:
            now = time.time_ns()  # the clock of the file system has steps of milliseconds
            with suppress(OSError):
                os.utime(self._path(shard), ns=(now, now))

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def _fetch(self, shard: ShardInfo, url: str) -> int | None:
        """A descriptor of the shard, just fetched; None where another process has done it meanwhile."""
        path = self._path(shard)
        with self._claimed(path.with_suffix(".part")) as part:
            if path.exists():
                return None
            self._make_room(part, shard.bytes)
            try:
                with os.fdopen(os.dup(part), "r+b") as file:
                    fetch(url, file, shard.bytes, shard.sha256)
                    file.flush()
                    os.fsync(part)  # after a power cut nobody would look at the checksum again
                with self._alone():  # whoever counts files while one changes its name may see neither
                    path.with_suffix(".part").rename(path)
                self.touch([shard])
            except OSError as error:  # of this disk: what goes wrong with the URL has been given other names
                raise Failure(f"{path}: cannot be written ({error.strerror}); make room, or lower cache_gb") from None
            return os.dup(part)

    @contextmanager
    def _claimed(self, part: Path) -> Iterator[int]:
        """Descriptor of the empty file `part`, which is ours inside the block and gone after it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = open_lock(part)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is(part, descriptor):  # who had it before us has renamed or removed it
                    continue
                try:
                    os.ftruncate(descriptor, 0)
                    yield descriptor
                finally:
                    if _is(part, descriptor):
                        part.unlink()
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for copies of the descriptor
                return
            finally:
                os.close(descriptor)

    def _make_room(self, part: int, size: int) -> None:
        """Unlink what was asked for longest ago until `size` more bytes fit, and take them for `part`. Waits where all
        else is being fetched, too."""
        if size > self.limit:
            raise InputError(f"cache_gb={self.limit / GB:.3g}: a shard has {size / GB:.3g} GB; give more")
        while True:
            with self._alone():
                files = sorted(self._files())
                taken = sum(length for _, length, _ in files)
                for _, length, path in files:
                    if taken + size <= self.limit:
                        break
                    if _removed(path):
                        taken -= length
                if taken + size <= self.limit:
                    os.ftruncate(part, size)
                    return
            time.sleep(0.05)

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time asked for, bytes, path) of all shards, whole or not."""
        found = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith((".tar", ".part")):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return found

    def _alone(self) -> AbstractContextManager[None]:
        """No other process or thread makes room or gives a shard its name in the block."""
        return locked(self.folder / ".lock")


def _is(path: Path, descriptor: int) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _removed(path: Path) -> bool:
    """Unlink a shard; a part only where nobody is fetching into it, for its process was killed."""
    with suppress(FileNotFoundError):
        if path.suffix == ".part":
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                path.unlink()  # still locked: whoever waits for it must find it gone
        else:
            path.unlink()
    return True
