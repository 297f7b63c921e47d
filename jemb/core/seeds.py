"""SplitMix64 in plain 64-bit integers: the same on every machine, build and library version.

Golden values in the tests pin it: a changed order would repeat and skip samples of runs that are resumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""By which the state of SplitMix64 grows: the golden ratio, made odd."""


def scramble(words: Words) -> Words:
    """SplitMix64's output function on each state: a bijection of 64-bit words."""
    words = words + GAMMA
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
