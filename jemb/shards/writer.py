"""Samples into shards: tars with their indexes, each whole or absent, and of a whole data set also the manifest.

Before: `prepare/engine/write.py` has the kept samples in their final order, or somebody else has. After: `reader.py`.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.core.files import new_file, write_atomic
from jemb.core.folders import whole_folder
from jemb.core.records import Kind, Sample
from jemb.shards.index import encode_index
from jemb.shards.manifest import Manifest, ShardInfo, StageCount, write_manifest
from jemb.shards.member import BLOCK, check_key, encode_header, encode_payload


def write_dataset(
    folder: Path,
    name: str,
    samples: Iterable[Sample],
    shard_samples: int,
    stages: Sequence[StageCount] = (),
    source: Mapping[str, Any] | None = None,
) -> Manifest:
    """Samples as a data set, in their order, `shard_samples` in each shard but the last; `folder` appears with all.

    The same samples give the same bytes. Memory: the keys, and the samples of a shard. Raises `InputError` where
    something is in `folder`, for a bad or repeated key, for samples of several kinds, for none, and for `shard_samples`
    below 1.
    """
    if shard_samples < 1:
        raise InputError(f"shard_samples={shard_samples}: wanted at least 1")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: there is something already; wanted a new or an empty folder")
    keys: set[str] = set()
    fields: set[str] = set()
    kinds: set[Kind] = set()

    def checked(sample: Sample) -> tuple[str, bytes]:
        check_key(sample.key)
        if sample.key in keys:
            raise InputError(f"{folder}: key {sample.key!r} comes twice; keys must be unique in a data set")
        keys.add(sample.key)
        kinds.add(sample.kind)
        fields.update(fields_of(sample))
        if len(kinds) > 1:
            raise InputError(
                f"{folder}: sample {sample.key!r} is of kind {sample.kind}, others are not; wanted one kind"
            )
        return sample.key, encode_payload(sample)

    rest = map(checked, samples)
    shards: list[ShardInfo] = []
    with whole_folder(folder) as temporary:
        while members := list(islice(rest, shard_samples)):
            shards.append(write_shard(temporary / f"shard-{len(shards):06d}.tar", members))
        if not shards:
            raise InputError(f"{folder}: data set {name!r} has no samples; wanted at least 1")
        manifest = Manifest(name, kinds.pop(), tuple(shards), tuple(stages), dict(source or {}), tuple(sorted(fields)))
        write_manifest(temporary, manifest)
    return manifest


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
    digest = hashlib.sha256()
    places: list[tuple[int, int]] = []
    position = 0
    with new_file(path) as file:

        def put(data: bytes) -> int:
            file.write(data)
            digest.update(data)
            return len(data)

        for key, payload in members:
            places.append((position + BLOCK, len(payload)))
            position += put(encode_header(key, len(payload)) + payload + bytes(-len(payload) % BLOCK))
        position += put(bytes(2 * BLOCK + -(position + 2 * BLOCK) % tarfile.RECORDSIZE))
        info = ShardInfo(path.name, len(places), position, digest.hexdigest())
        # Index first, so that a tar is never without one.
        write_atomic(path.with_name(info.index_file), encode_index(places))
    return info
