"""Where files lie: local paths and URLs behind one set of functions. fsspec lives here alone.

A place is a text: a path on this machine, or a URL of any file system that fsspec knows (`s3://…`, `memory://…`).
Whatever goes wrong with a place is an `InputError` that names it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jemb.core.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

BUFFER = 1 << 20
REMOTE_BLOCK = 8 << 20
"""Bytes asked of a server at once."""
AT_ONCE = 16
"""Files looked at in parallel: it is the server's answer that takes the time."""
TAGS = ("ETag", "etag", "Content-MD5", "md5Hash", "md5", "checksum", "crc32c", "blob_id", "LastModified")
"""What file systems call that which changes with a file's content."""


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a place. size: bytes, None where a server does not say; tag: changes with a remote file's content,
    empty for a local one; regular: a file or folder, not a pipe or a link to nowhere."""

    place: str
    is_folder: bool
    size: int | None
    tag: str = ""
    regular: bool = True

    @property
    def name(self) -> str:
        return base_name(self.place)


def is_url(place: str) -> bool:
    return "://" in place


def to_local(place: str) -> str:
    """A `file://` URL as a plain path; any other place as it is."""
    if place.startswith(("file://", "local://")):
        return str(file_system(place)[1])
    return place


def base_name(place: str) -> str:
    """The last name in a path or URL, without a query."""
    if is_url(place):
        return place.partition("?")[0].rstrip("/").rpartition("/")[2]
    return Path(place).name or Path(place).resolve().name


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def look(place: str) -> Found:
    """What stands at `place`; `InputError` when there is nothing or it may not be seen."""
    with naming(place):
        if not is_url(place):
            size = Path(place).stat().st_size
            found = _local(Path(place))
            return found if found.is_folder else replace(found, place=place, size=size)
        files, path = file_system(place)
        return _found(files, place, files.info(path))


def list_folder(place: str) -> list[Found]:
    """What is in a folder, by name; hidden entries are left out."""
    with naming(place):
        if not is_url(place):
            found = [_local(path) for path in Path(place).iterdir()]
        else:
            files, folder = file_system(place)
            # Object stores list a folder's own mark among what is in it.
            infos = [info for info in files.ls(folder, detail=True) if info["name"].strip("/") != folder.strip("/")]
            found = [_found(files, str(files.unstrip_protocol(info["name"])), info) for info in infos]
    return sorted((item for item in found if not item.name.startswith(".")), key=lambda item: item.name)


def open_bytes(place: str, in_order: bool = False) -> io.BufferedReader:
    """`place` for reading. in_order: it is read from begin to end, which every web server can serve."""
    with naming(place):
        if not is_url(place):
            file: Any = Path(place).open("rb", buffering=0)  # noqa: SIM115  # the caller closes it
        else:
            files, path = file_system(place)
            stream = in_order and is_web(place)
            file = files.open(path, "rb", block_size=0 if stream else REMOTE_BLOCK)
    return io.BufferedReader(_Named(place, file, seekable=not (in_order and is_web(place))), BUFFER)


def is_web(place: str) -> bool:
    """Whether `place` is on a plain web server: it lists no folders, and may know no ranges of bytes."""
    return place.startswith(("http://", "https://"))


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of each item, some at once, results in the order of the items."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, items))


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Turn what goes wrong with `place` into an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{place}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        if not is_url(place):
            raise
        # Each file system and web client has errors of its own.
        raise InputError(f"{place}: cannot be read ({type(error).__name__}: {error})") from error


class _Named(io.RawIOBase):
    """A file whose errors name it, also those that come up while it is read."""

    def __init__(self, place: str, file: Any, seekable: bool) -> None:
        self._place = place
        self._file = file
        self._seekable = seekable
        self._at_end = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def readinto(self, buffer: Any) -> int:
        if self._at_end:  # buffers ask again, and web clients warn of that
            return 0
        with naming(self._place):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at_end = not data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at_end = False
        with naming(self._place):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def file_system(url: str) -> tuple[Any, str]:
    """(fsspec file system, path in it) of a URL."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        extra = "; pip install 'jemb[s3]'" if url.startswith(("s3://", "s3a://")) else ""
        raise InputError(f"{url}: {error}, which reads such URLs{extra}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}; wanted a path or a URL that fsspec knows") from None
    return files, str(path)


def _found(files: Any, place: str, info: Mapping[str, Any]) -> Found:
    if info.get("type") == "directory":
        return Found(place, True, None)
    tag = next((str(info[name]) for name in TAGS if info.get(name)), None)
    return Found(place, False, info.get("size"), tag or str(files.ukey(info["name"])))


def _local(path: Path) -> Found:
    is_folder = path.is_dir()
    return Found(str(path), is_folder, None, "", is_folder or path.is_file() or not path.exists())
