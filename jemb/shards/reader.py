"""Rows of a data set to samples: random reads by row number, checked against the manifest.

Before: `writer.py` or `adopt.py`. After: `data/loader.py` reads the rows the plan names.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from tqdm import tqdm

from jemb.errors import InputError
from jemb.records import Sample
from jemb.shards.index import REBUILD, index_file_bytes, open_index
from jemb.shards.manifest import INDEX_HINT, MANIFEST, UNFINISHED, ShardInfo, read_manifest
from jemb.shards.member import BLOCK, decode_header, decode_payload

MAX_OPEN = 128
"""Shards held open by one process over all readers; each takes two file descriptors of the usual 1,024."""


class ShardReader:
    """One data set. Rows are numbered over the shards in the manifest's order, from 0.

    Opening checks sizes only (two `stat` calls a shard): a truncated tar, a missing file and an index of
    another length raise `InputError` there. Tars are opened when first read: readers can be pickled, forked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if not self.manifest.num_samples:
            raise InputError(f"{self.folder / MANIFEST}: num_samples is 0; wanted at least 1")
        self._starts = [0, *accumulate(shard.num_samples for shard in self.manifest.shards)]
        for shard in self.manifest.shards:
            _check_size(self.folder / shard.file, shard.bytes, "the tar was cut off or changed")
            wanted = index_file_bytes(shard.num_samples)
            _check_size(self.folder / shard.index_file, wanted, f"not the index of {shard.file}; {REBUILD}")

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Sample]:
        for row in range(len(self)):
            yield self.read(row)

    def read(self, row: int) -> Sample:
        """The sample of `row`, 0 <= row < len. Raises `IndexError`; `InputError` for damaged bytes."""
        shard, offset, size = self._place(row)
        data = os.pread(shard.tar, BLOCK + size, offset - BLOCK)
        key = self._key(shard, data[:BLOCK], offset, size)
        try:
            if len(data) != BLOCK + size:
                raise ValueError(f"{len(data) - BLOCK} bytes left in the file; wanted {size}")
            return decode_payload(key, data[BLOCK:])
        except ValueError as error:
            raise InputError(f"{shard.path}: damaged sample {key!r} at byte {offset}: {error}") from None

    def key(self, row: int) -> str:
        """The key of `row`, from the header alone."""
        shard, offset, size = self._place(row)
        return self._key(shard, os.pread(shard.tar, BLOCK, offset - BLOCK), offset, size)

    def verify(self) -> None:
        """Read everything: sha256 of each tar, and each sample through the index. Raises `InputError`."""
        shards = tqdm(self.manifest.shards, desc=f"verify {self.manifest.name}", unit="shard", leave=False)
        for number, info in enumerate(shards):
            path = self.folder / info.file
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != info.sha256:
                raise InputError(f"{path}: sha256 is {digest}; {MANIFEST} wants {info.sha256}: the tar has changed")
            last = 0
            for row in range(self._starts[number], self._starts[number + 1]):
                _, offset, _ = self._place(row)
                if offset <= last:
                    raise InputError(f"{path.with_name(info.index_file)}: not in order at row {row}; {REBUILD}")
                last = offset
                self.read(row)

    def _place(self, row: int) -> tuple[_OpenShard, int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.folder}; wanted 0 <= row < {len(self)}")
        number = bisect_right(self._starts, row) - 1
        shard = _open_shard(self, number)
        offset, size = shard.index[row - self._starts[number]].item()
        if not BLOCK <= offset <= shard.bytes - size:
            raise InputError(
                f"{shard.path}: the index puts row {row} at byte {offset} with {size} bytes; "
                f"the tar has {shard.bytes}; {REBUILD}"
            )
        return shard, offset, size

    def _key(self, shard: _OpenShard, header: bytes, offset: int, size: int) -> str:
        try:
            return decode_header(header, size)
        except ValueError as error:
            raise InputError(
                f"{shard.path}: no sample at byte {offset}: {error}; "
                "tar or index is damaged, or they do not belong together"
            ) from None


class _OpenShard:
    """A tar's descriptor and mapped index; closed when the last user lets go: eviction never cuts a read."""

    def __init__(self, folder: Path, info: ShardInfo) -> None:
        self.path = folder / info.file
        self.bytes = info.bytes
        self.index = open_index(folder / info.index_file, info.num_samples)
        self.tar = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "tar"):
            os.close(self.tar)


# One cache for all readers of a process, so that many data sets do not use up the descriptors. Those that a
# forked worker inherits are safe: pread shares no position.
@lru_cache(maxsize=MAX_OPEN)
def _open_shard(reader: ShardReader, number: int) -> _OpenShard:
    return _OpenShard(reader.folder, reader.manifest.shards[number])


def _check_size(path: Path, wanted: int, meaning: str) -> None:
    try:
        seen = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {MANIFEST} names it with {wanted} bytes") from None
    if seen != wanted:
        raise InputError(f"{path}: has {seen} bytes; {MANIFEST} wants {wanted}: {meaning}")


def open_datasets(path: Path) -> dict[str, ShardReader]:
    """The data sets at `path`, by name and sorted: `path` is one itself, or a folder that holds some.

    Raises `InputError` when there is none, one is unfinished or damaged, or two have the same name.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; wanted a data set or a folder of data sets")
    if (path / MANIFEST).is_file():
        reader = ShardReader(path)
        return {reader.manifest.name: reader}
    readers: dict[str, ShardReader] = {}
    for folder in [path, *sorted(path.iterdir())]:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if (folder / MANIFEST).is_file():
            reader = ShardReader(folder)
            name = reader.manifest.name
            if name in readers:
                raise InputError(f"{folder}: is named {name!r} like {readers[name].folder}; wanted one name for each")
            readers[name] = reader
        elif (folder / UNFINISHED).exists() or any(folder.glob("*.tar")):
            read_manifest(folder)  # raises, and says what to do
    if not readers:
        raise InputError(f"{path}: no data set in it (a folder with {MANIFEST}); {INDEX_HINT}")
    return dict(sorted(readers.items()))
