"""A teacher's vectors of the texts of a data set, beside its shards, which training learns from (`objective=teach`).

Three arrays, mapped into memory, whose sizes and checksums stand in the manifest's `files`:

    teacher.keys.npy     i8 [T], ascending: a number for each text on its side
    teacher.places.npy   i8 [T]: the row of its vector
    teacher.vectors.npy  f2 or f4 [U, D]

A text is known by its content hash, so that stored token ids suffice to find it; of texts that are equal but for white
space and case the first one's vector stands for all. A query and a passage of one text may have two vectors, because
they may have different prompts.

Before: `prepare/stages/teacher.py` writes them. After: `data/collate.py` gives them to the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jemb.core.errors import InputError
from jemb.core.files import MAX_MAPPED, map_array
from jemb.shards.manifest import MANIFEST, Manifest

Numbers = NDArray[np.int64]

FIELD = "teacher"
"""In a manifest's `fields`; also the name of the stage."""
KEYS, PLACES, VECTORS = ARRAYS = ("teacher.keys.npy", "teacher.places.npy", "teacher.vectors.npy")
AGAIN = "run `jemb prepare` with the stage teacher again"
QUERY = 0x517CC1B727220A95
"""What sets the key of a query apart from that of a passage."""


def keys_of(hashes: Numbers, *, query: bool) -> Numbers:
    """Keys of texts [N] with these content hashes."""
    return hashes ^ QUERY if query else hashes


class TeacherVectors:
    """Those of one data set, which may be read in any process. width: D.

    Raises `InputError` where they are not there or do not belong together.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folders = [folder]
        if missing := sorted({*ARRAYS} - {info.file for info in manifest.files}):
            raise InputError(f"{folder}: {MANIFEST} names no {missing[0]}, the vectors of a teacher; {AGAIN}")
        self.width = int(_open(folder)[2].shape[1])
        # What the vectors depend on, but for their precision and the place of the model.
        settings = next((stage.settings for stage in manifest.stages if stage.name == FIELD), {})
        self.made_with = {
            name: value
            for name, value in settings.items()
            if name != "dtype" and (name != "model" or "model_files" not in settings)
        }

    @staticmethod
    def joined(teachers: Sequence[TeacherVectors]) -> TeacherVectors:
        """Those of several data sets, a text's the first one's that has it."""
        one = copy(teachers[0])
        one.folders = [folder for teacher in teachers for folder in teacher.folders]
        return one

    def take(self, hashes: Numbers, *, query: bool) -> NDArray[np.float32]:
        """The vectors [N, D] of texts with these content hashes. Raises `InputError` for a text without a vector."""
        keys = keys_of(hashes, query=query)
        found, left = np.empty((len(keys), self.width), np.float32), np.arange(len(keys))
        for folder in self.folders:
            known, places, vectors = _open(folder)
            at = np.minimum(np.searchsorted(known, keys[left]), len(known) - 1)
            there = known[at] == keys[left]
            found[left[there]] = vectors[places[at[there]]]
            left = left[~there]
        if len(left):
            raise InputError(
                f"{self.folders[0]}: the teacher has no vectors of {len(left)} of {len(keys)} "
                f"{'queries' if query else 'passages'} of a step; {AGAIN}"
            )
        return found


@lru_cache(maxsize=MAX_MAPPED // len(ARRAYS))
def _open(folder: Path) -> tuple[NDArray[Any], ...]:
    arrays = [map_array(folder / name, AGAIN) for name in ARRAYS]
    keys, places, vectors = arrays
    fits = [array.dtype.kind + str(array.ndim) for array in arrays] == ["i1", "i1", "f2"]
    if not fits or len(keys) != len(places) or not len(keys) or not 0 <= places.max() < len(vectors):
        raise InputError(f"{folder / KEYS}: the arrays of the teacher do not belong together; {AGAIN}")
    return tuple(arrays)
