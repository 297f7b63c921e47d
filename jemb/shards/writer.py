"""Samples into shards: tar, index, and at the end the manifest. All of it or no manifest.

Before: `prepare/engine/run.py` has the kept samples in their final order. After: `reader.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import create, naming, open_lock, sync_folder, write_atomic
from jemb.core.records import Kind, Sample
from jemb.shards.index import encode_index
from jemb.shards.manifest import MANIFEST, UNFINISHED, Manifest, ShardInfo, StageCount, write_manifest
from jemb.shards.member import BLOCK, check_key, encode_header, encode_payload


class ShardWriter:
    """Writes one data set; a context manager.

    folder: made if need be; must not hold a data set or tars yet. What a killed writer left is removed.
    shard_samples: samples in each shard but the last; > 0.
    The same samples in the same order give the same bytes. Leaving the block without a finished `close`
    removes all that was written. Memory: the keys (to find duplicates) and the samples of one shard.
    """

    def __init__(self, folder: Path, name: str, kind: Kind, shard_samples: int) -> None:
        if shard_samples < 1:
            raise InputError(f"shard_samples is {shard_samples}; wanted at least 1")
        self.folder, self.name, self.kind, self.shard_samples = folder, name, kind, shard_samples
        self._keys: set[str] = set()
        self._shards: list[ShardInfo] = []
        self._members: list[tuple[str, bytes]] = []
        self._fields: set[str] = set()
        self._closed = False
        self._lock = _claim(folder)

    def write(self, sample: Sample) -> None:
        """Add one sample. Raises `InputError` for a bad or repeated key, or negatives against the kind."""
        check_key(sample.key)
        if sample.key in self._keys:
            raise InputError(f"{self.folder}: key {sample.key!r} comes twice; keys must be unique in a data set")
        if sample.kind != self.kind:
            raise InputError(
                f"{self.folder}: sample {sample.key!r} is of kind {sample.kind}, with {len(sample.negatives)} "
                f"negatives; wanted {self.kind}"
            )
        self._fields |= fields_of(sample)
        self._members.append((sample.key, encode_payload(sample)))
        self._keys.add(sample.key)
        if len(self._members) == self.shard_samples:
            self._finish_shard()

    def close(self, stages: Iterable[StageCount] = (), source: Mapping[str, Any] | None = None) -> Manifest:
        """Finish the last shard and write the manifest. Raises `InputError` when no sample was written."""
        self._finish_shard()
        if not self._shards:
            raise InputError(f"{self.folder}: data set {self.name!r} has no samples; wanted at least 1")
        manifest = Manifest(
            self.name, self.kind, tuple(self._shards), tuple(stages), dict(source or {}), tuple(sorted(self._fields))
        )
        write_manifest(self.folder, manifest)
        self._closed = True
        os.close(self._lock)
        return manifest

    def _finish_shard(self) -> None:
        if self._members:
            self._shards.append(write_shard(self.folder / f"shard-{len(self._shards):06d}.tar", self._members))
            self._members = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._closed:
            return
        _remove_shards(self.folder)
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        os.close(self._lock)
        self._closed = True


def fields_of(sample: Sample) -> set[str]:
    """As `Manifest.fields` has them."""
    given = {
        "positives": sample.more_positives,
        "score": sample.score is not None,
        "label": sample.label is not None,
        "positive": sample.label is not None and sample.positive != sample.query,
        "scores": sample.scores,
    }
    return {name for name, there in given.items() if there}


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> ShardInfo:
    """One tar and its index from (key, payload of `encode_payload`) in order. Whole or absent; keys are not checked."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    places: list[tuple[int, int]] = []
    position = 0
    try:
        with naming(path), create(temporary) as file:

            def put(data: bytes) -> int:
                file.write(data)
                digest.update(data)
                return len(data)

            for key, payload in members:
                places.append((position + BLOCK, len(payload)))
                position += put(encode_header(key, len(payload)) + payload + bytes(-len(payload) % BLOCK))
            position += put(bytes(2 * BLOCK + -(position + 2 * BLOCK) % tarfile.RECORDSIZE))
            file.flush()
            os.fsync(file.fileno())
        info = ShardInfo(path.name, len(places), position, digest.hexdigest())
        # Index first, so that a tar is never without one.
        write_atomic(path.with_name(info.index_file), encode_index(places))
        temporary.replace(path)
        sync_folder(path.parent)
        return info
    finally:
        temporary.unlink(missing_ok=True)


def _claim(folder: Path) -> int:
    """Make `folder` ours; the descriptor of its locked mark. The lock ends with the process, not the mark."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / UNFINISHED
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: holds a data set already ({MANIFEST}); remove it or choose another folder")
    # Without our mark these are not ours to delete.
    if not mark.exists() and (tars := sorted(folder.glob("*.tar"))):
        raise InputError(f"{folder}: holds {tars[0].name}, which this did not write; choose another folder")
    descriptor = open_lock(mark)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder}: another process is writing this data set; wait for it or stop it") from None
    except OSError:
        pass  # a file system without locks
    sync_folder(folder)
    _remove_shards(folder)
    return descriptor


def _remove_shards(folder: Path) -> None:
    for pattern in ("shard-*.tar", "shard-*.idx.npy", ".shard-*.tmp", f".{MANIFEST}.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()
