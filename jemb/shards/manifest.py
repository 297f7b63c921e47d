"""manifest.json of a data set: exact counts, checksums, the stages that made it, and its fingerprint.

Before: `writer.py` and `adopt.py` make it, last of all. After: `reader.py` opens the shards it names, the plan takes
its counts and fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from jemb.core.errors import InputError
from jemb.core.files import check_name, read_json, write_json
from jemb.core.parse import COUNT, Shape, check_shape
from jemb.core.records import Kind
from jemb.shards.index import AGAIN, index_file_bytes
from jemb.tables.places import join

MANIFEST = "manifest.json"
VERSION = 1
SHA256 = re.compile(r"[0-9a-f]{64}")
HINT = (
    "`jemb prepare input=RAW output=DIR` makes some of raw files; for tars made by others, "
    "`jemb inspect --index path=DIR` builds index and manifest"
)

SHAPE: Shape = {
    "name": str,
    "kind": str,
    "shards": [{"file": str, "num_samples": COUNT, "bytes": COUNT, "sha256": str}],
    "stages": [{"name": str, "kept": COUNT, "dropped": {str: COUNT}, "settings": {}, "statistics?": {}}],
    "source": {},
    "fields?": [str],
    "files?": [{"file": str, "bytes": COUNT, "sha256": str}],
}


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


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file that a stage of `prepare` left beside the shards; as of a tar."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StageCount:
    """What one stage of `prepare` did: samples kept, dropped by reason, the settings it ran with, and what it found
    on the way (histograms and counts for the report)."""

    name: str
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole data set. `source` is free: where the samples came from.

    fields: those of `member.OPTIONAL` that its samples have; "positive" where labelled texts have one besides; and
    "teacher" where the vectors of one are among `files`, which lie beside the shards.
    """

    name: str
    kind: Kind
    shards: tuple[ShardInfo, ...]
    stages: tuple[StageCount, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    files: tuple[FileInfo, ...] = ()

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all tars."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of kind, counts and digests of shards and files in order; no name and no path of a folder, so data
        may move."""
        content = [self.kind, self.num_samples, [[shard.num_samples, shard.sha256] for shard in self.shards]]
        content += [[[file.file, file.sha256] for file in self.files]] if self.files else []
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def check_files(self, place: str, size_of: Callable[[str], int | None]) -> None:
        """Raise `InputError` where a file of the data set at `place`, a path or URL, is missing or has another size.
        size_of: name in there -> bytes, None where there is no such file."""
        wanted = {shard.file: (shard.bytes, "the tar was cut off or changed") for shard in self.shards}
        for shard in self.shards:
            meaning = f"not the index of {shard.file}; {AGAIN}"
            wanted[shard.index_file] = index_file_bytes(shard.num_samples), meaning
        wanted |= {file.file: (file.bytes, "it was cut off or changed") for file in self.files}
        for name, (size, meaning) in wanted.items():
            if (found := size_of(name)) is None:
                raise InputError(f"{join(place, name)}: no such file; {MANIFEST} names it with {size} bytes")
            if found != size:
                raise InputError(f"{join(place, name)}: has {found} bytes; {MANIFEST} wants {size}: {meaning}")

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "num_samples": self.num_samples,
            "bytes": self.bytes,
            "shards": [asdict(shard) for shard in self.shards],
            "stages": [asdict(stage) for stage in self.stages],
            "source": dict(self.source),
            **({"fields": list(self.fields)} if self.fields else {}),
            **({"files": [asdict(file) for file in self.files]} if self.files else {}),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> Manifest:
        """Raises `InputError` naming `where`, field, seen and wanted; also when sums do not fit."""
        check_shape(value, {"version": COUNT}, where)
        if value["version"] != VERSION:
            raise InputError(f"{where}: version is {value['version']}; this jemb reads version {VERSION}")
        check_shape(value, SHAPE, where)
        if value["kind"] not in get_args(Kind):
            raise InputError(f"{where}: kind is {value['kind']!r}; wanted one of {', '.join(get_args(Kind))}")
        for part in ("shards", "files"):
            for number, entry in enumerate(value.get(part, ())):
                at = f"{where}: {part}[{number}]"
                if "/" in check_name(entry["file"], at) or (part == "shards" and not entry["file"].endswith(".tar")):
                    raise InputError(f"{at}: file is {entry['file']!r}; wanted a plain name, of a shard one in .tar")
                if not SHA256.fullmatch(entry["sha256"]):  # by which a cache knows it
                    raise InputError(f"{at}: sha256 is {entry['sha256']!r}; wanted 64 hex digits")
        try:
            shards = tuple(ShardInfo(**entry) for entry in value["shards"])
            stages = tuple(StageCount(**entry) for entry in value["stages"])
            files = tuple(FileInfo(**entry) for entry in value.get("files", ()))
        except TypeError as error:
            raise InputError(f"{where}: {error}; wanted a manifest of version {VERSION}") from None
        fields = tuple(value.get("fields", ()))
        manifest = cls(value["name"], value["kind"], shards, stages, value["source"], fields, files)
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
        raise InputError(f"{folder}: no {MANIFEST} in it; wanted a data set ({HINT})")
    return Manifest.from_json(read_json(path), str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / MANIFEST, manifest.to_json())
