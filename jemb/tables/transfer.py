"""Whole files from and to URLs, patiently: servers fail and connections break, and most of that passes.

Before: `places.py` knows the file systems. After: `shards/cache.py` fetches shards, `mirror.py` brings results to
their URL. What may pass is tried again a bounded number of times, with growing, uneven pauses; what cannot (no such
file, no permission) is an `InputError` at once. Safe in any thread, and after a fork.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from jemb.core.errors import Failure, InputError
from jemb.core.files import check_name
from jemb.tables.places import file_system

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 8
"""Failures in a row after which a transfer is given up: after half a minute of pauses, besides what the requests take
and what their client (s3fs) tries by itself."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds before the second try, and at most before any other; each doubles the one before."""
BLOCK = 16 << 20
"""Bytes of one request: what is lost when it breaks."""
FOR_EVER = (errno.EINVAL, errno.EPERM, errno.ENOSYS)
"""Of errors that file systems make of a server's answer, those that the same request meets again."""
# Not the shared generator: whoever seeds that must find it as it was.
_draw = random.Random()


class NotThere(InputError):
    """No such file or folder."""


def read_file(url: str) -> bytes:
    """All of a small file."""
    return patiently(url, lambda: bytes(_on(url, "cat_file")))


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file that has them."""
    data = patiently(url, lambda: _from(url, start, stop))
    if len(data) < stop - start:
        raise InputError(f"{url}: {len(data)} bytes from byte {start} on; wanted {stop - start}: the file was cut off")
    return data[: stop - start]


def fetch(url: str, file: BinaryIO, size: int, sha256: str | None = None) -> None:
    """Write all of `url`, which has `size` bytes, into `file`, going on where a connection broke.

    Raises `InputError` when it has, twice, another size, or another checksum than `sha256`.
    """
    for again in (False, True):
        digest = hashlib.sha256()
        file.seek(0)
        done = 0
        while done < size:
            data = patiently(url, lambda start=done: _from(url, start, min(start + BLOCK, size)))  # type: ignore[misc]
            file.write(data)
            digest.update(data)
            done += len(data)
        if done == size and sha256 in (None, digest.hexdigest()):
            return
        if not again:
            log.warning("%s: came damaged; fetched again", url)
    raise InputError(
        f"{url}: has {done} bytes with sha256 {digest.hexdigest()}; wanted {size} with {sha256 or 'any'}: "
        "the file has changed since that was written down"
    )


def send(path: Path, url: str) -> None:
    """Put a local file there, instead of what stood there before. Object stores show it when it is whole."""

    def put() -> None:
        files, target = file_system(url)
        files.put_file(str(path), target)

    patiently(url, put, "written")


def remove(url: str) -> None:
    """Remove a file; none there is well, too."""
    with suppress(NotThere):
        patiently(url, lambda: _on(url, "rm_file"), "removed")


def list_tree(url: str) -> dict[str, int]:
    """{name under `url`: bytes} of all files there, in any depth; empty where there is nothing.

    The keys of a bucket are anybody's texts: raises `InputError` for one that is no name of a file in a folder.
    """

    def find() -> dict[str, int]:
        files, root = file_system(url)
        files.invalidate_cache()
        found = files.find(root, detail=True)
        start = len(root.rstrip("/")) + 1
        names = {path[start:]: int(info.get("size") or 0) for path, info in found.items() if len(path) > start}
        # A key that ends in `/` is the mark of a folder that was made by hand.
        return {check_name(name, url): size for name, size in names.items() if size or not name.endswith("/")}

    try:
        return patiently(url, find)
    except NotThere:
        return {}


def patiently(url: str, work: Callable[[], T], done: str = "read") -> T:
    """What `work` returns, tried up to `TRIES` times. Raises `InputError` for what no try can mend, else `Failure`."""
    for number in range(1, TRIES + 1):
        try:
            return work()
        except InputError:
            raise
        except FileNotFoundError as error:
            raise NotThere(f"{url}: no such file or folder") from error
        except Exception as error:  # each file system and web client has errors of its own
            if is_final(error):
                raise InputError(f"{url}: cannot be {done} ({_words(error)})") from error
            if number == TRIES:
                raise Failure(f"{url}: cannot be {done}, after {TRIES} tries; the last one: {_words(error)}") from error
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (number - 1)) * _draw.uniform(0.5, 1.5)
            log.log(
                logging.WARNING if number > 2 else logging.DEBUG,
                "%s: %s; try %d of %d in %.1f s", url, _words(error), number + 1, TRIES, pause,
            )  # fmt: skip
            time.sleep(pause)
    raise AssertionError


def is_final(error: Exception) -> bool:
    """Whether the same request would meet the same error again."""
    if isinstance(error, PermissionError | IsADirectoryError | NotImplementedError | ImportError):
        return True
    if isinstance(error, OSError) and error.errno in FOR_EVER:
        return True
    status = getattr(error, "status", None)  # of web clients
    if isinstance(status, int) and 400 <= status < 500:
        return status not in (408, 425, 429)
    return "Credentials" in type(error).__name__


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _from(url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop); fewer where the answer was cut, and all to the end from a server that knows no ranges."""
    data = bytes(_on(url, "cat_file", start=start, end=stop))
    if len(data) > stop - start:
        data = data[start:]
    if not data:
        raise OSError(errno.EIO, "an empty answer")
    return data


def _on(url: str, method: str, *arguments: object, **options: object) -> bytes:
    files, path = file_system(url)
    found: bytes = getattr(files, method)(path, *arguments, **options)
    return found
