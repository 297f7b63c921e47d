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
        self.folder, self.name = folder, manifest.name
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

    def take(self, hashes: Numbers, *, query: bool) -> NDArray[np.float32]:
        """The vectors [N, D] of texts with these content hashes. Raises `InputError` for a text without a vector."""
        known, places, vectors = _open(self.folder)
        keys = keys_of(hashes, query=query)
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        if missing := int((known[at] != keys).sum()):
            raise InputError(
                f"{self.folder}: the teacher has no vectors of {missing} of {len(keys)} "
                f"{'queries' if query else 'passages'} of a step; {AGAIN}"
            )
        return np.asarray(vectors[places[at]], np.float32)


@lru_cache(maxsize=MAX_MAPPED // len(ARRAYS))
def _open(folder: Path) -> tuple[NDArray[Any], ...]:
    arrays = [map_array(folder / name, AGAIN) for name in ARRAYS]
    keys, places, vectors = arrays
    fits = [array.dtype.kind + str(array.ndim) for array in arrays] == ["i1", "i1", "f2"]
    if not fits or len(keys) != len(places) or not len(keys) or not 0 <= places.max() < len(vectors):
        raise InputError(f"{folder / KEYS}: the arrays of the teacher do not belong together; {AGAIN}")
    return tuple(arrays)
