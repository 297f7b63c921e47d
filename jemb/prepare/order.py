"""The only chance in prepare: rows in the order of a hash of (seed, purpose, key).

The same rows and seed give the same order on any machine, with any number of workers, and a row keeps its place in it
when others are dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jemb.records import Sample


def number(seed: int, purpose: str, key: str = "") -> int:
    """A number in [0, 2^64) that looks random; `purpose` keeps different uses of one seed apart."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{key}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def shuffled(rows: Iterable[Sample], seed: int, purpose: str) -> list[Sample]:
    """`rows` in hash order; the key settles equal hashes. The first n of it are a random draw of n."""
    return sorted(rows, key=lambda row: (number(seed, purpose, row.key), row.key))
