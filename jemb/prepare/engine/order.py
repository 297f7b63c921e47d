"""The only chance in prepare: a 64-bit number for each row, from the seed, a purpose and the row's id.

The same rows and seed give the same numbers on any machine, with any number of workers, and a row keeps its number
when others are dropped.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def number(seed: int, purpose: str) -> int:
    """A number in [0, 2^64) that looks random; `purpose` keeps different uses of one seed apart."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def scrambled(ids: npt.NDArray[np.int64], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A number for each id: different ids have different ones (SplitMix64 is a bijection), so sorting them is a shuffle
    without ties, and the n lowest are a random draw of n."""
    z = ids.astype(np.uint64) + np.uint64(number(seed, purpose))
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
