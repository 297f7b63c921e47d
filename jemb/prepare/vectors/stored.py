"""Arrays that are larger than memory: filled place by place, and read slice by slice.

`numbering.py` and `embeddings.py` write them; `scoring.py` reads the pool from one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jemb.core.files import sync_folder, write_array

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors in a `.npy` file, float32 [P, D], read slice by slice: unlike those of a memory map, pages that were
    read do not count as memory of this process."""

    path: Path
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path) -> StoredVectors:
        stored = np.load(path, mmap_mode="r")
        return cls(path, stored.shape, stored.offset)

    def __getitem__(self, rows: slice) -> Vectors:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start) * self.shape[1]
        found = np.fromfile(self.path, np.float32, count, offset=self.offset + 4 * start * self.shape[1])
        return found.reshape(-1, self.shape[1])


@contextmanager
def whole_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A `.npy` file to be filled place by place, whole or absent."""
    if 0 in shape:  # nothing can be mapped
        yield (nothing := np.empty(shape, dtype))
        write_array(path, nothing)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        yield array
        array.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
