"""manifest.json of a data set: exact counts, checksums, the stages that made it, and its fingerprint.

Before: `writer.py` and `adopt.py` make it, last of all. After: `reader.py` opens the shards it names, the
plan takes its counts and fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from jemb.core.errors import InputError
from jemb.core.files import check_name, read_json, write_json
from jemb.core.records import Kind

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
"""Stands in a data set's folder from the writer's start to its manifest: shards beside it may be deleted."""
VERSION = 1
INDEX_HINT = (
    "`jemb prepare input=RAW output=DIR` makes some of raw files; for tars made by others, "
    "`jemb inspect --index path=DIR` builds index and manifest"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One tar. file: its name in the folder; bytes: its size; sha256: hex digest of the whole file."""

    file: str
    num_samples: int
    bytes: int
    sha256: str

    @property
    def index_file(self) -> str:
        """Name of the index beside the tar."""
        return self.file.removesuffix(".tar") + ".idx.npy"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str) -> ShardInfo:
        """`where` names the place in messages. Raises `InputError`."""
        shard = cls(
            file=_get(value, "file", str, where),
            num_samples=_get(value, "num_samples", int, where),
            bytes=_get(value, "bytes", int, where),
            sha256=_get(value, "sha256", str, where),
        )
        if "/" in check_name(shard.file, where) or not shard.file.endswith(".tar"):
            raise InputError(f"{where}: file is {shard.file!r}; wanted a plain name that ends in .tar")
        return shard


@dataclass(frozen=True, slots=True)
class StageCount:
    """What one stage of `prepare` did: samples kept, dropped by reason, the settings it ran with, and what it found
    on the way (histograms and counts for the report)."""

    name: str
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "settings": dict(self.settings),
            "statistics": dict(self.statistics),
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> StageCount:
        """`where` names the place in messages. Raises `InputError`."""
        dropped = _get(value, "dropped", dict, where)
        return cls(
            name=_get(value, "name", str, where),
            kept=_get(value, "kept", int, where),
            dropped={reason: _get(dropped, reason, int, f"{where}.dropped") for reason in dropped},
            settings=_get(value, "settings", dict, where),
            statistics=_get({"statistics": {}, **value}, "statistics", dict, where),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole data set. `source` is free: where the samples came from."""

    name: str
    kind: Kind
    shards: tuple[ShardInfo, ...]
    stages: tuple[StageCount, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all tars."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of kind, counts and shard digests in order; no name and no path, so data may move."""
        content = [self.kind, self.num_samples, [[shard.num_samples, shard.sha256] for shard in self.shards]]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "num_samples": self.num_samples,
            "bytes": self.bytes,
            "shards": [shard.to_json() for shard in self.shards],
            "stages": [stage.to_json() for stage in self.stages],
            "source": dict(self.source),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> Manifest:
        """Raises `InputError` naming `where`, field, seen and wanted; also when sums do not fit."""
        version = _get(value, "version", int, where)
        if version != VERSION:
            raise InputError(f"{where}: version is {version}; this jemb reads version {VERSION}")
        kind = _get(value, "kind", str, where)
        if kind not in get_args(Kind):
            raise InputError(f"{where}: kind is {kind!r}; wanted one of {', '.join(get_args(Kind))}")
        shards = _get(value, "shards", list, where)
        stages = _get(value, "stages", list, where)
        manifest = cls(
            name=_get(value, "name", str, where),
            kind=kind,  # type: ignore[arg-type]
            shards=tuple(ShardInfo.from_json(item, f"{where}: shards[{i}]") for i, item in enumerate(shards)),
            stages=tuple(StageCount.from_json(item, f"{where}: stages[{i}]") for i, item in enumerate(stages)),
            source=_get(value, "source", dict, where),
        )
        for name, wanted in manifest.to_json().items():
            if name in ("num_samples", "bytes", "fingerprint") and value.get(name) != wanted:
                raise InputError(
                    f"{where}: {name} is {value.get(name)!r}, but its shards give {wanted!r}; "
                    "the file was edited or damaged"
                )
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`; `InputError` when there is none or it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; wanted a data set (a folder with {MANIFEST})")
        if (folder / UNFINISHED).exists():
            raise InputError(f"{folder}: writing it was not finished, there is no {MANIFEST}; write it again")
        raise InputError(f"{folder}: no {MANIFEST} in it; wanted a data set ({INDEX_HINT})")
    return Manifest.from_json(read_json(path), str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` and only then take the mark of an unfinished data set away."""
    write_json(folder / MANIFEST, manifest.to_json())
    (folder / UNFINISHED).unlink(missing_ok=True)


def _get(value: Any, name: str, kind: type[T], where: str) -> T:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is {type(value).__name__}; wanted an object")
    if name not in value:
        raise InputError(f"{where}: field {name!r} is missing")
    found = value[name]
    # bool is an int to Python, and a negative count would shift every row.
    if not isinstance(found, kind) or isinstance(found, bool) or (isinstance(found, int) and found < 0):
        wanted = {int: "a whole number >= 0", str: "a string", list: "a list", dict: "an object"}[kind]
        raise InputError(f"{where}: {name} is {found!r}; wanted {wanted}")
    return found
