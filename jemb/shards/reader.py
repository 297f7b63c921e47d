"""Rows of a data set to samples: random reads by row number, checked against the manifest.

Before: `prepare/`. After: `data/sampler.py` reads the rows the plan names.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from jemb.core.errors import InputError
from jemb.core.files import check_sha256
from jemb.core.progress import track
from jemb.core.records import Sample
from jemb.shards.cache import ShardCache
from jemb.shards.index import AGAIN, check_index, open_index
from jemb.shards.manifest import HINT, MANIFEST, FileInfo, ShardInfo, read_manifest
from jemb.shards.member import BLOCK, decode_header, decode_payload
from jemb.shards.remote import RemoteTars, bring, find_datasets
from jemb.tables.places import each, is_url, to_local

MAX_OPEN = 128
"""Shards held open by one process over all readers; each takes two file descriptors of the usual 1,024."""
RANGE_COST = 1 << 20
"""Bytes that are fetched in the time of a request."""


class ShardFiles(NamedTuple):
    """Where a shard lies: its index in `folder`, its tar there or among `tars`. prefix: of the keys in it."""

    folder: Path
    info: ShardInfo
    tars: RemoteTars | None
    prefix: str = ""

    @property
    def path(self) -> Path | str:
        """Of the tar."""
        return self.tars.place(self.info) if self.tars else self.folder / self.info.file

    @property
    def index_path(self) -> Path:
        return self.folder / self.info.index_file


class ShardReader:
    """One data set. Rows are numbered over the shards in the manifest's order, from 0.

    tars: where the tars are if not in `folder`, which then has only manifest and indexes.
    Opening checks sizes only (two `stat` calls a shard): a truncated tar, a missing file and an index of
    another length raise `InputError` there. Tars are opened when first read: readers can be pickled, forked.
    """

    def __init__(self, folder: Path, tars: RemoteTars | None = None) -> None:
        self.folder = Path(folder)
        self.tars = tars
        self.manifest = read_manifest(self.folder)
        if not self.manifest.num_samples:
            raise InputError(f"{self.folder / MANIFEST}: num_samples is 0; wanted at least 1")
        self.shards = [ShardFiles(self.folder, shard, tars) for shard in self.manifest.shards]
        self.files: list[tuple[Path, FileInfo]] = [] if tars else [(self.folder, file) for file in self.manifest.files]
        self._starts = [0, *accumulate(shard.num_samples for shard in self.manifest.shards)]
        if tars is None:
            self.manifest.check_files(str(self.folder), self._size_of)

    @staticmethod
    def joined(readers: Sequence[ShardReader]) -> ShardReader:
        """One of all rows, which follow each other; the keys have the name of their data set before them: `NAME/KEY`.
        The data sets have one kind and the same fields."""
        one = copy(readers[0])
        one.shards = [
            shard._replace(prefix=f"{reader.manifest.name}/") for reader in readers for shard in reader.shards
        ]
        one.files = [file for reader in readers for file in reader.files]
        one.manifest = replace(one.manifest, shards=tuple(shard.info for shard in one.shards))
        one._starts = [0, *accumulate(shard.info.num_samples for shard in one.shards)]
        return one

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Sample]:
        for row in range(len(self)):
            yield self.read(row)

    def read(self, row: int) -> Sample:
        """The sample of `row`, 0 <= row < len. Raises `IndexError`; `InputError` for damaged bytes, and that or
        `Failure` where they cannot be fetched."""
        return self._read(row, whole=self.tars is None or self.tars.whole)

    def spread(self, count: int) -> Iterator[Sample | InputError]:
        """`count` evenly spaced samples, 0 < count <= len, a damaged one as what `read` raises.

        Where they are few among much, only their bytes are fetched of remote shards that are not here.
        """
        whole = self.manifest.bytes <= count * RANGE_COST

        def look(row: int) -> Sample | InputError:
            try:
                return self._read(row, whole=whole)
            except InputError as error:
                return error

        rows = [i * len(self) // count for i in range(count)]
        return map(look, rows) if self.tars is None else iter(each(look, rows))

    def _read(self, row: int, *, whole: bool) -> Sample:
        shard, offset, size = self._place(row)
        data = shard.read(BLOCK + size, offset - BLOCK, whole=whole)
        key = self._key(shard, data[:BLOCK], offset, size)
        try:
            if len(data) != BLOCK + size:
                raise ValueError(f"{len(data) - BLOCK} bytes left in the file; wanted {size}")
            return decode_payload(key, data[BLOCK:], self.manifest.fields)
        except ValueError as error:
            raise InputError(f"{shard.path}: damaged sample {key!r} at byte {offset}: {error}") from None

    def key(self, row: int) -> str:
        """The key of `row`, from the header alone."""
        shard, offset, size = self._place(row)
        whole = self.tars is None or self.tars.whole
        return self._key(shard, shard.read(BLOCK, offset - BLOCK, whole=whole), offset, size)

    def verify(self) -> None:
        """Read everything: `verify_shard` of each, each sample through the index, and the files beside them. Raises
        `InputError`."""
        self.verify_files()
        numbers = range(len(self.manifest.shards))
        for number in track(numbers, f"verify {self.manifest.name}", len(numbers), "shard"):
            self.verify_shard(number)
            for row in range(self._starts[number], self._starts[number + 1]):
                self.read(row)

    def verify_shard(self, number: int, *, fetch: bool = True) -> int:
        """Compare a tar with its sha256 in the manifest, and its index with the tar; the bytes that were read.

        fetch: a remote tar that is not here is brought, which compares it; else it is passed over.
        Raises `InputError` with both sums. A cached tar that has changed is removed, so that the next start fetches it.
        """
        shard = self.shards[number]
        info, tars = shard.info, shard.tars
        if tars:
            descriptor = tars.open(info) if fetch else tars.cache.find(info)
        else:
            descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor is None:
            return 0
        with os.fdopen(descriptor, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != info.sha256:
                more = tars.cache.forget(info) if tars else "the tar has changed"
                raise InputError(f"{shard.path}: sha256 is {digest}; {MANIFEST} wants {info.sha256}: {more}")
            check_index(open_index(shard.index_path, info.num_samples), file, shard.index_path)
        return info.bytes + shard.index_path.stat().st_size

    def verify_files(self) -> int:
        """Compare the files beside the shards with the manifest; the bytes that were read. Raises `InputError`."""
        return sum(check_sha256(folder / info.file, info.sha256, MANIFEST, AGAIN) for folder, info in self.files)

    def _size_of(self, name: str) -> int | None:
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def _place(self, row: int) -> tuple[_OpenShard, int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.folder}; wanted 0 <= row < {len(self)}")
        number = bisect_right(self._starts, row) - 1
        shard = _open_shard(self, number)
        offset, size = shard.index[row - self._starts[number]].item()
        if not BLOCK <= offset <= shard.info.bytes - size:
            raise InputError(
                f"{shard.path}: the index puts row {row} at byte {offset} with {size} bytes; "
                f"the tar has {shard.info.bytes}; {AGAIN}"
            )
        return shard, offset, size

    def _key(self, shard: _OpenShard, header: bytes, offset: int, size: int) -> str:
        try:
            return shard.prefix + decode_header(header, size)
        except ValueError as error:
            raise InputError(
                f"{shard.path}: no sample at byte {offset}: {error}; "
                "tar or index is damaged, or they do not belong together"
            ) from None


class _OpenShard:
    """A tar's descriptor and mapped index; closed when the last user lets go: eviction never cuts a read."""

    def __init__(self, shard: ShardFiles) -> None:
        self.path, self.index_path, self.checked = shard.path, shard.index_path, False
        self.info, self.tars, self.prefix = shard.info, shard.tars, shard.prefix
        self.index = open_index(self.index_path, self.info.num_samples)
        if self.tars is None:
            self.tar = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int, offset: int, *, whole: bool) -> bytes:
        """As `os.pread`. whole: a remote tar may be fetched for it."""
        if self.tars is None:
            return os.pread(self.tar, size, offset)
        if whole and not self.checked:  # its index came from elsewhere than the tar
            with os.fdopen(self.tars.open(self.info), "rb") as file:
                check_index(self.index, file, self.index_path)
            self.checked = True
        # Opened each time, which costs microseconds: a descriptor that is kept holds the bytes of an evicted shard.
        return self.tars.read(self.info, size, offset, whole=whole)

    def __del__(self) -> None:
        if hasattr(self, "tar"):
            os.close(self.tar)


# One cache for all readers of a process, so that many data sets do not use up the descriptors. Those that a
# forked worker inherits are safe: pread shares no position.
@lru_cache(maxsize=MAX_OPEN)
def _open_shard(reader: ShardReader, number: int) -> _OpenShard:
    return _OpenShard(reader.shards[number])


def open_datasets(
    place: Path | str, cache: ShardCache | None = None, *, whole_shards: bool = True
) -> dict[str, ShardReader]:
    """The data sets at `place`, by name and sorted: it is one itself, or a folder that holds some; a path or a URL.

    cache: for data behind a URL, the usual one for None. whole_shards: fetch whole what is read of them, else only the
    bytes that are read.
    Raises `InputError` when there is none, one has no manifest or is damaged, or two have the same name.
    """
    place = to_local(str(place))
    readers: dict[str, ShardReader] = {}
    for reader in _open_remote(place, cache, whole_shards) if is_url(place) else _open_local(Path(place)):
        name = reader.manifest.name
        if name in readers:
            where = [one.tars.url if one.tars else one.folder for one in (reader, readers[name])]
            raise InputError(f"{where[0]}: is named {name!r} like {where[1]}; wanted one name for each")
        readers[name] = reader
    return dict(sorted(readers.items()))


def _open_remote(url: str, cache: ShardCache | None, whole_shards: bool) -> Iterator[ShardReader]:
    cache = cache or ShardCache()
    for place, sizes in find_datasets(url).items():
        yield ShardReader(bring(place, sizes, cache), RemoteTars(place, cache, whole_shards))


def _open_local(path: Path) -> Iterator[ShardReader]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; wanted a data set or a folder of data sets")
    if (path / MANIFEST).is_file():
        yield ShardReader(path)
        return
    found = False
    for folder in [path, *sorted(path.iterdir())]:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if (folder / MANIFEST).is_file():
            found = True
            yield ShardReader(folder)
        elif any(folder.glob("*.tar")):
            read_manifest(folder)  # raises, and says what to do
    if not found:
        raise InputError(f"{path}: no data set in it (a folder with {MANIFEST}); {HINT}")
