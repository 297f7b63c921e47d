"""Samples on disk: write, read, index, manifest, adopt. Knows nothing of ranks, weights, epochs or filters.

Before: `prepare/` decides what is kept and in which order. After: `data/` plans over manifests, reads rows.
"""

from jemb.shards.adopt import adopt
from jemb.shards.cache import ShardCache, cache_home
from jemb.shards.manifest import FileInfo, Manifest, ShardInfo, StageCount, read_manifest, write_manifest
from jemb.shards.member import encode_payload
from jemb.shards.reader import ShardReader, open_datasets
from jemb.shards.remote import RemoteTars
from jemb.shards.tokens import TokenReader
from jemb.shards.writer import write_dataset, write_shard

__all__ = [
    "FileInfo",
    "Manifest",
    "RemoteTars",
    "ShardCache",
    "ShardInfo",
    "ShardReader",
    "StageCount",
    "TokenReader",
    "adopt",
    "cache_home",
    "encode_payload",
    "open_datasets",
    "read_manifest",
    "write_dataset",
    "write_manifest",
    "write_shard",
]
