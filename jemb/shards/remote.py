"""Data sets behind a URL: their manifests and indexes brought to this machine, their tars fetched when they are read.

Before: any fsspec file system (`tables/places.py`). After: `reader.py` reads them as it reads local ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.core.folders import locked
from jemb.core.parse import parse_json
from jemb.shards.cache import ShardCache
from jemb.shards.index import AGAIN, index_file_bytes
from jemb.shards.manifest import MANIFEST, Manifest, ShardInfo
from jemb.tables.places import each, is_web, join
from jemb.tables.transfer import list_tree, read_file, read_range


@dataclass(frozen=True, slots=True)
class RemoteTars:
    """The tars of one data set at `url`. whole: a shard that is read is fetched; else only the bytes that are asked
    for, from a shard that is not here."""

    url: str
    cache: ShardCache
    whole: bool = True

    def place(self, shard: ShardInfo) -> str:
        return join(self.url, shard.file)

    def open(self, shard: ShardInfo) -> int:
        """A descriptor of the whole shard, which the caller closes soon."""
        return self.cache.open(shard, self.place(shard))

    def fetch(self, shard: ShardInfo) -> None:
        """Have the shard on this machine."""
        os.close(self.open(shard))

    def read(self, shard: ShardInfo, size: int, offset: int, *, whole: bool) -> bytes:
        """As `os.pread`."""
        descriptor = self.cache.find(shard)
        if descriptor is None:
            if not whole:
                return read_range(self.place(shard), offset, offset + size)
            descriptor = self.open(shard)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


def find_datasets(url: str) -> dict[str, dict[str, int] | None]:
    """{URL: bytes of each file in it} of the data sets at `url`, which is one itself, or a folder that holds some.

    A plain web server lists no folders: there `url` must be a data set, and stands alone with None.
    """
    if is_web(url):
        return {url: None}
    found: dict[str, dict[str, int]] = {}
    for name, size in list_tree(url).items():
        folder, _, file = name.rpartition("/")
        found.setdefault(folder, {})[file] = size
    if MANIFEST in found.get("", {}):
        return {url: found[""]}
    inside = {join(url, name): files for name, files in found.items() if MANIFEST in files and "/" not in name}
    for name, files in found.items():
        has_tars = any(file.endswith(".tar") for file in files)
        if has_tars and MANIFEST not in files and "/" not in name and not name.startswith("."):
            raise InputError(
                f"{join(url, name) if name else url}: has tars but no {MANIFEST}, which is copied last: wait until all "
                "of it is there, copy it again, or remove it"
            )
    if not inside:
        raise InputError(f"{url}: no data set there (a folder with {MANIFEST})")
    return dict(sorted(inside.items()))


def bring(url: str, sizes: Mapping[str, int] | None, cache: ShardCache) -> Path:
    """The folder on this machine with manifest and indexes of the data set at `url`, up to date.

    sizes: bytes of the files there, None where that is not known.
    Raises `InputError` where a file is missing there, or has another size than the manifest says.
    """
    where = join(url, MANIFEST)
    data = read_file(where)
    manifest = Manifest.from_json(parse_json(data, where), where)
    if sizes is not None:
        manifest.check_files(url, sizes.get)
    # By content: another manifest at the same URL has a folder of its own, and one that moved is known again.
    folder = cache.folder / "indexes" / hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):  # one process of the machine fetches, the others find all there
        each(lambda shard: _bring_index(url, folder, shard), manifest.shards)
        if not (folder / MANIFEST).exists():
            write_atomic(folder / MANIFEST, data)
    return folder


def _bring_index(url: str, folder: Path, shard: ShardInfo) -> None:
    path, wanted = folder / shard.index_file, index_file_bytes(shard.num_samples)
    if path.exists() and path.stat().st_size == wanted:
        return
    place = join(url, shard.index_file)
    data = read_file(place)
    if len(data) != wanted:
        raise InputError(f"{place}: has {len(data)} bytes; {MANIFEST} wants {wanted}: {AGAIN}")
    write_atomic(path, data)
