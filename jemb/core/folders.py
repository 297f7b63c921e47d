"""Folders that are whole or absent, places for results, and locks on them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jemb.core.errors import InputError
from jemb.core.files import open_lock, sync_folder


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well and is removed when it does not.

    An older `folder` is replaced. The temporary one stands beside it, so the last step is a rename.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    if temporary.is_symlink():
        temporary.unlink()
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            else:
                sync_folder(path)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Give the finished folder `new` the name `folder`; an older one of that name is removed. Same file system."""
    sync_folder(new)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    else:
        new.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process or thread is in such a block of the same lock file; the others wait."""
    with os.fdopen(open_lock(path), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_way(output: Path) -> None:
    """Make the folder of a file that a job will write at its end; `InputError` where that cannot be."""
    if output.is_dir():
        raise InputError(f"output={output}: is a folder; wanted the name of a file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={output}: its folder cannot be made ({error.strerror})") from None


def check_free(folder: Path, given: str) -> None:
    """`InputError` where something is there, or the folder around it cannot be made. given: as the user wrote it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{given}: there is something already; give a new or an empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{given}: its folder cannot be made ({error.strerror})") from None


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Keep a second run of `command` out of `folder`, which is made if need be. The lock ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: there is a file where a folder is wanted") from None
    lock = open_lock(folder / ".lock")
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another {command} is at work there; wait for it") from None
        yield
    finally:
        os.close(lock)
