"""How often the texts of samples come again, within a data set and between data sets. Reads everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jemb.core.progress import track
from jemb.core.text import content_hash
from jemb.shards.reader import ShardReader

KINDS = ("samples", "queries", "positives")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Of one data set, for each of `KINDS`: samples whose query and positive, query, or positive come before.

    within: in the same data set. earlier: not there, but in one before it in the order of the readers.
    """

    within: Mapping[str, int]
    earlier: Mapping[str, int]


def count_duplicates(readers: Mapping[str, ShardReader]) -> dict[str, Duplicates]:
    """For each data set its duplicates. Texts are equal where they are but for white space and case.

    Negatives are not looked at. In memory: 24 bytes a sample, and as much again while they are sorted.
    """
    seen = {kind: np.empty(0, np.int64) for kind in KINDS}
    found: dict[str, Duplicates] = {}
    for name, reader in readers.items():
        within: dict[str, int] = {}
        earlier: dict[str, int] = {}
        for kind, hashes in zip(KINDS, _hashes(name, reader).T, strict=True):
            distinct = np.unique(hashes)
            within[kind] = len(hashes) - len(distinct)
            earlier[kind] = int(np.isin(distinct, seen[kind], assume_unique=True).sum())
            seen[kind] = np.union1d(seen[kind], distinct)
        found[name] = Duplicates(within, earlier)
    return found


def equal_shards(readers: Mapping[str, ShardReader]) -> list[list[str]]:
    """Groups of shards with the same bytes, each `DATA SET/FILE`, from the manifests alone."""
    groups: dict[str, list[str]] = {}
    for name, reader in readers.items():
        for shard in reader.manifest.shards:
            groups.setdefault(shard.sha256, []).append(f"{name}/{shard.file}")
    return [group for group in groups.values() if len(group) > 1]


def _hashes(name: str, reader: ShardReader) -> np.ndarray:
    """int64 [N, 3], in the order of `KINDS`."""
    hashes = np.empty((len(reader), 3), np.int64)
    for row, sample in enumerate(track(reader, f"compare {name}", len(reader), "sample")):
        query, positive = content_hash(sample.query), content_hash(sample.positive)
        # Not their sum or difference: the pair (a, b) is another one than (b, a).
        hashes[row] = hash((query, positive)), query, positive
    return hashes
