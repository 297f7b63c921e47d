"""Files that are whole or absent: everything jemb writes appears by write-to-temporary, fsync, rename.

Names that come from outside become paths here alone (`inside`), and no link that somebody planted is followed: neither
at a temporary name (`create`) nor at a lock (`open_lock`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jemb.core.errors import Failure, InputError
from jemb.core.parse import Shape, check_shape, parse_json, parse_yaml


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def check_name(name: object, where: str | Path) -> str:
    """`name` as it is, where it is a relative path that stays in its folder; `InputError` naming `where` otherwise.

    For names from listings of buckets, manifests, tars, checkpoints and folders of models: these are data, which
    anybody may have written. Refused are absolute names, `..`, empty parts, backslashes and control characters.
    """
    wrong = not isinstance(name, str) or any(sign == "\\" or sign < " " or sign == "\x7f" for sign in name)
    if wrong or any(part in ("", ".", "..") for part in str(name).split("/")):
        raise InputError(f"{where}: names {name!r}; wanted a relative name that stays in its folder")
    return str(name)


def inside(folder: Path, name: object, where: str | Path) -> Path:
    """The path of `name`, which comes from outside, in `folder`. `InputError` as of `check_name`, and for a name behind
    a link that leads out of the folder."""
    path = folder / check_name(name, where)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {name!r} is a link out of {folder}; wanted a file or folder that stays in it")
    return path


def create(path: Path) -> BinaryIO:
    """A new file for writing; what had the name, of a killed process or a planted link, is removed, not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, 0o666), "wb")
    except FileExistsError:
        path.unlink()
        return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_lock(path: Path) -> int:
    """The descriptor of a file that processes lock, made if need be. `InputError` where a link has its name."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path}: is a link, which jemb never makes there; remove it") from None
        raise


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def writing(path: Path, more: str = "") -> Iterator[None]:
    """What a full disk raises inside the block becomes a `Failure` that names `path`, with `more` to say.

    Libraries in Rust (safetensors, tokenizers) raise exceptions of their own, in whose text the system's number stands.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number not in NO_ROOM:
            raise
        told = f"; {more}" if more else ""
        way_out = "Choose a place that can be written to" if number == errno.EROFS else "Make room"
        raise Failure(
            f"{path}: cannot be written ({os.strerror(number)}){told}. {way_out}; then the same command continues"
        ) from None


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write `path` so that a reader sees the old file or the whole new one, never a part."""
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """To be written to; it has its name from the end of the block on, whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), create(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(path: Path, name: Path) -> None:
    """The same file under a second name; a copy on another disk, or where there are no links. Whole or absent."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        with new_file(name) as file, path.open("rb") as source:
            shutil.copyfileobj(source, file)
    sync_folder(name.parent)


def write_array(path: Path, array: np.ndarray) -> None:
    """`write_atomic` of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getbuffer())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, wanted: str, named_in: str, remedy: str) -> int:
    """Read a file and compare it with its checksum; its bytes. Raises `InputError` with both sums."""
    if (found := sha256_of(path)) != wanted:
        raise InputError(f"{path}: sha256 is {found}; {named_in} wants {wanted}: it has changed; {remedy}")
    return path.stat().st_size


MAX_MAPPED = 30_000
"""Arrays that each kind of reader in a process keeps mapped, of indexes and of token ids; Linux allows 65,530."""


def map_array(path: Path, remedy: str) -> np.ndarray:
    """The array in a `.npy` file, read where it is looked at. `InputError` with the remedy for one that is not whole.

    A process maps very many: numpy's own mapping would hold a file descriptor for each, torch's holds none.
    """
    import torch

    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = header(file)
            start = file.tell()
        size = start + math.prod(shape) * dtype.itemsize
        if dtype.hasobject or path.stat().st_size != size:
            raise ValueError(f"{path.stat().st_size} bytes of {dtype}, wanted {size}")
        data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        return data[start:].view(dtype).reshape(shape, order="F" if by_columns else "C")
    except (OSError, ValueError, RuntimeError) as error:
        why = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise InputError(f"{path}: damaged, or cannot be read ({why}); {remedy}") from None


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, shape: Shape | None = None) -> Any:
    """The JSON in `path`, of that shape (`parse.check_shape`) where one is given.

    `InputError` naming the file where it is missing, cannot be read, is damaged or holds something else.
    """
    value = parse_json(read_bytes(path), path)
    if shape is not None:
        check_shape(value, shape, path)
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The same of a YAML file of options."""
    value = parse_yaml(read_bytes(path), path)
    check_shape(value, {}, path)
    return dict(value)


def read_bytes(path: Path) -> bytes:
    """All of a small file; `InputError` naming it where it is missing or no file."""
    try:
        return path.read_bytes()
    except PermissionError:
        raise  # has a message of its own
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
