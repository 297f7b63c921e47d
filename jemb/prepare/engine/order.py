"""All randomness in prepare: a 64-bit number for each row, from the seed, a purpose and the row's id.

The same rows and seed give the same numbers on any machine, with any number of workers, and a row keeps its number
when others are dropped.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from jemb.core.seeds import GAMMA, scramble


def number(seed: int, purpose: str) -> int:
    """A number in [0, 2^64) that looks random; `purpose` keeps different uses of one seed apart."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def scrambled(ids: npt.NDArray[np.int64], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A number for each id: different ids have different ones (SplitMix64 is a bijection), so sorting them is a shuffle
    without ties, and the n lowest are a random draw of n."""
    steps = ids.astype(np.uint64) + np.uint64(number(seed, purpose))
    return scramble((steps - np.uint64(1)) * GAMMA)
