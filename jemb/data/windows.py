"""The order of one pass where samples are shuffled within windows of whole shards: what `shuffle_shards` asks for.

The shards come in a new order in each pass. So many of them in a row are a window, whose samples are shuffled among
themselves. Pure, as `plan.py` is, and in terms of positions and rows only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jemb.data.permutation import mix, permute, shuffled

Rows = NDArray[np.int64]


class WindowedPass:
    """A permutation of the rows of shards with these `sizes` [S], `num_shards` of which are a window.

    Time and memory to make: O(S). Rows of positions: O(their number + windows they lie in), times log S.
    """

    def __init__(self, sizes: Rows, num_shards: int, key: int) -> None:
        self.num_shards, self.key = num_shards, key
        self.order = shuffled(len(sizes), mix("shards", key))
        sizes = sizes.astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        self._ends = np.cumsum(sizes[self.order])  # of each shard, in this pass's order
        self._shift = starts[self.order] - (self._ends - sizes[self.order])
        last = np.minimum(np.arange(num_shards, len(sizes) + num_shards, num_shards), len(sizes)) - 1
        self._borders = np.concatenate([np.zeros(1, dtype=np.int64), self._ends[last]])

    def windows(self, start: int, stop: int) -> range:
        """The windows that positions [start, stop) lie in; start < stop."""
        first, last = np.searchsorted(self._borders, [start, stop - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def shards(self, window: int) -> Rows:
        """The shards of a window."""
        return self.order[window * self.num_shards : (window + 1) * self.num_shards]

    def rows(self, start: int, stop: int) -> Rows:
        """The rows at positions [start, stop); start < stop."""
        parts = []
        for window in self.windows(start, stop):
            low, high = self._borders[window : window + 2].tolist()
            inside = np.arange(max(start, low) - low, min(stop, high) - low, dtype=np.int64)
            parts.append(low + permute(inside, high - low, mix("window", self.key, window)))
        places = np.concatenate(parts)
        return places + self._shift[np.searchsorted(self._ends, places, side="right")]
