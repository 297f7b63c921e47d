"""Tars made by others become a data set in place: index and manifest are added, the tars stay untouched.

After: `reader.py` reads them like jemb's own. Tars of another layout go through `prepare`.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from jemb.core.errors import InputError
from jemb.core.files import write_atomic
from jemb.core.progress import track
from jemb.core.records import Kind, Sample
from jemb.shards.index import encode_index
from jemb.shards.manifest import MANIFEST, Manifest, ShardInfo, write_manifest
from jemb.shards.member import BLOCK, decode_header, decode_payload, known_fields, plain_name
from jemb.shards.writer import fields_of
from jemb.tables.places import open_bytes
from jemb.tables.records import MAX_RECORD
from jemb.tables.streams import refuse_foreign
from jemb.tables.tars import Member, iter_members

PREPARE = "use `jemb prepare`, which reads any WebDataset tars and writes shards"


def adopt(folder: Path) -> Manifest:
    """Build indexes and manifest for the `*.tar` in `folder`, in the order of their names.

    Each sample must be one `KEY.json` member with strings query and positive; none or all have negatives.
    Raises `InputError` for anything else, naming tar and member. A key keeps the folder of its member's name.
    """
    folder = Path(folder)
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
    found = [_scan(tar, seen, kinds, fields) for tar in track(tars, "index", len(tars), "tar")]
    if not seen:
        raise InputError(f"{folder}: no samples in {len(tars)} tars; wanted KEY.json members")
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: {' and '.join(f'{place} is of kind {kind}' for kind, place in kinds.items())}; wanted one "
            f"kind, all with negatives or none; {PREPARE}"
        )
    for info, index in found:
        write_atomic(folder / info.index_file, index)
    shards = tuple(info for info, _ in found)
    manifest = Manifest(
        folder.resolve().name, next(iter(kinds)), shards, (), {"format": "adopted"}, tuple(sorted(fields))
    )
    write_manifest(folder, manifest)
    return manifest


def _scan(tar: Path, seen: set[str], kinds: dict[Kind, str], fields: set[str]) -> tuple[ShardInfo, bytes]:
    """The shard and its index's bytes. seen: all keys so far; kinds: where each kind was seen first; fields: as
    `Manifest.fields` has them, of the samples so far, of which the first says what else than texts they have."""
    places: list[tuple[int, int]] = []
    with tar.open("rb") as file:
        for member, sample in _samples(tar, file, None if not seen else fields):
            if sample.key in seen:
                raise InputError(f"{tar}: key {sample.key!r} comes twice in the data set; {PREPARE}")
            seen.add(sample.key)
            fields |= fields_of(sample)
            kinds.setdefault(sample.kind, f"{tar.name}:{member.name}")
            places.append((member.offset, member.size))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardInfo(tar.name, len(places), tar.stat().st_size, digest), encode_index(places)


def _samples(tar: Path, file: BinaryIO, fields: Collection[str] | None) -> Iterator[tuple[Member, Sample]]:
    """fields: what the samples have; None: what the first one has."""
    for member in _members(tar):
        place = f"{tar}: member {member.name!r} at byte {member.offset}"
        if member.extension != "json" or member.sparse or member.size > MAX_RECORD:
            raise InputError(f"{place}: wanted plain KEY.json members of at most {MAX_RECORD >> 20} MiB; {PREPARE}")
        file.seek(member.offset - BLOCK)
        data = file.read(BLOCK + member.size)
        if len(data) < BLOCK + member.size:
            raise InputError(f"{tar}: cut off at byte {member.offset - BLOCK + len(data)} in member {member.name!r}")
        try:
            # pax and GNU tars keep a long name elsewhere, and the reader sees the plain header only.
            if (plain := plain_name(data[:BLOCK])) != member.name:
                raise ValueError(f"its name does not fit the plain header, which says {plain!r}")
            key, payload = decode_header(data[:BLOCK], member.size), data[BLOCK:]
            fields = known_fields(payload) if fields is None else fields
            sample = decode_payload(key, payload, fields)
            _check_text(sample)
        except ValueError as error:
            raise InputError(f"{place}: {error}; {PREPARE}") from None
        yield member, sample


def _members(tar: Path) -> Iterator[Member]:
    try:
        with open_bytes(str(tar)) as file:
            refuse_foreign(str(tar), file)
            yield from iter_members(file)
    except tarfile.TarError as error:
        raise InputError(f"{tar}: {error}") from None


def _check_text(sample: Sample) -> None:
    """`ValueError` for half a surrogate pair, which JSON can carry and no tokenizer takes."""
    for text in sample.texts:
        text.encode()
