"""Tars made by others become a data set in place: index and manifest are added, the tars stay untouched.

After: `reader.py` reads them like jemb's own. Tars of another layout go through `prepare`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from jemb.core.errors import InputError
from jemb.core.files import sha256_of, write_atomic
from jemb.core.progress import track
from jemb.core.records import Kind, Sample
from jemb.shards.index import encode_index
from jemb.shards.manifest import MANIFEST, Manifest, ShardInfo, write_manifest
from jemb.shards.member import BLOCK, decode_header, decode_payload, known_fields, plain_name
from jemb.shards.writer import fields_of
from jemb.tables.places import open_bytes
from jemb.tables.records import MAX_RECORD
from jemb.tables.streams import refuse_foreign
from jemb.tables.tars import iter_members

PREPARE = "use `jemb prepare`, which reads any WebDataset tars and writes shards"


def adopt(folder: Path) -> Manifest:
    """Build indexes and manifest for the `*.tar` in `folder`, in the order of their names.

    Each sample must be one `KEY.json` member with strings query and positive; none or all have negatives.
    Raises `InputError` for anything else, naming tar and member. A key keeps the folder of its member's name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted a folder of tars")
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: has a {MANIFEST} already; remove it to index the tars again")
    tars = sorted(path for path in folder.glob("*.tar") if path.is_file() and path.name[0] != ".")
    if not tars:
        raise InputError(f"{folder}: no *.tar in it; wanted WebDataset tars")
    seen: set[str] = set()
    kinds: dict[Kind, str] = {}
    fields: set[str] = set()
    found: list[tuple[ShardInfo, bytes]] = []
    for tar in track(tars, "index", len(tars), "tar"):
        places: list[tuple[int, int]] = []
        for info, sample in _samples(tar, fields, first=not seen):
            if sample.key in seen:
                raise InputError(f"{tar}: key {sample.key!r} comes twice in the data set; {PREPARE}")
            seen.add(sample.key)
            fields |= fields_of(sample)
            kinds.setdefault(sample.kind, f"{tar.name}:{info.name}")
            places.append((info.offset_data, info.size))
        shard = ShardInfo(tar.name, len(places), tar.stat().st_size, sha256_of(tar))
        found.append((shard, encode_index(places)))
    if not seen:
        raise InputError(f"{folder}: no samples in {len(tars)} tars; wanted KEY.json members")
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: {' and '.join(f'{place} is of kind {kind}' for kind, place in kinds.items())}; wanted one "
            f"kind, all with negatives or none; {PREPARE}"
        )
    for shard, index in found:
        write_atomic(folder / shard.index_file, index)
    shards = tuple(shard for shard, _ in found)
    name, kind = folder.resolve().name, next(iter(kinds))
    manifest = Manifest(name, kind, shards, (), {"format": "adopted"}, tuple(sorted(fields)))
    write_manifest(folder, manifest)
    return manifest


def _samples(tar: Path, fields: set[str], *, first: bool) -> Iterator[tuple[tarfile.TarInfo, Sample]]:
    """fields: as `Manifest.fields` has them, of the samples so far. first: there are none, and this tar's first one
    says what else than texts they have."""
    try:
        with open_bytes(str(tar)) as file, tar.open("rb") as headers:
            refuse_foreign(str(tar), file)
            for _, extension, info, read in iter_members(file):
                try:
                    if extension != "json" or info.issparse() or info.size > MAX_RECORD:
                        raise ValueError(f"wanted plain KEY.json members of at most {MAX_RECORD >> 20} MiB")
                    header, payload = os.pread(headers.fileno(), BLOCK, info.offset_data - BLOCK), read()
                    # pax and GNU tars keep a long name elsewhere, and the reader sees the plain header only.
                    if (plain := plain_name(header)) != info.name:
                        raise ValueError(f"its name does not fit the plain header, which says {plain!r}")
                    if first:
                        fields |= known_fields(payload)
                        first = False
                    sample = decode_payload(decode_header(header, info.size), payload, fields)
                    "".join(sample.texts).encode()  # JSON can carry half a surrogate pair, which no tokenizer takes
                except ValueError as error:
                    place = f"{tar}: member {info.name!r} at byte {info.offset_data}"
                    raise InputError(f"{place}: {error}; {PREPARE}") from None
                yield info, sample
    except tarfile.TarError as error:
        raise InputError(f"{tar}: {error}") from None
