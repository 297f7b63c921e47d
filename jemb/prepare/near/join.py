"""The join of near duplicates: MinHash signatures name the candidates, the exact Jaccard similarity of the shingle sets
decides, and of each connected group the lowest id stays.

Each step is a map of tasks from files to files:

    pieces ─► sign ─► two files a piece: digests and band keys, and folded texts
                       │ digests: rows of equal words; the first goes on
                       │ band keys, a few bands at a time: what is connected now is not compared again in the next
                       ▼
                      components
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table
from jemb.prepare.engine.verdicts import add_up
from jemb.prepare.equal import Numbers, all_ids, ends, equal_pairs, find_equal, num_ranges, read_range
from jemb.prepare.near.candidates import connect, keys_of, num_bands
from jemb.prepare.near.check import merge
from jemb.prepare.near.folding import Packed, copy_runs, fold, fold_rows, pack

if TYPE_CHECKING:
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

BINS = 20
"""Of the histogram of similarities from 0.5 to 1; those below are counted in the first."""
CLUSTER = 10
"""Clusters of so many rows and more are counted together."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """What signing the pieces left in a folder. starts: [pieces + 1], place of the first row of each."""

    folder: Path
    starts: Numbers

    @property
    def key_files(self) -> list[Path]:
        return [_file(self.folder, "keys", piece) for piece in range(len(self.starts) - 1)]

    def lengths(self, rows: Numbers) -> Numbers:
        """Bytes of each of these texts."""
        lengths = np.empty(len(rows), np.int64)
        for _, offsets, local, where in self._by_piece(rows):
            lengths[where] = offsets[local + 1] - offsets[local]
        return lengths

    def take(self, rows: Numbers) -> Packed:
        """The folded texts of these rows, in this order."""
        offsets = ends(self.lengths(rows))
        data = np.empty(offsets[-1], np.uint8)
        for piece, starts, local, where in self._by_piece(rows):
            stored = np.load(_file(self.folder, "texts", piece), mmap_mode="r")
            copy_runs(stored, starts[local], np.diff(offsets)[where], offsets[where], data)
        return Packed(data, offsets)

    def _by_piece(self, rows: Numbers) -> Iterator[tuple[int, Numbers, Numbers, Numbers]]:
        """(piece, offsets of its texts, rows within it, places in `rows`), by ascending row."""
        order = np.argsort(rows, kind="stable")
        borders = np.searchsorted(rows[order], self.starts)
        for piece in range(len(self.starts) - 1):
            where = order[borders[piece] : borders[piece + 1]]
            if len(where):
                offsets = np.load(_file(self.folder, "offsets", piece), mmap_mode="r")
                yield piece, offsets, rows[where] - self.starts[piece], where


def join(table: Table, job: Job, config: NearDuplicatesConfig, seed: int) -> Dropped:
    """What the stage `near_duplicates` drops."""
    counts = table.counts()
    total = sum(counts)
    spilled = Spilled(job.folder, ends(np.array(counts, np.int64)))
    sign = partial(_sign_piece, table, job.folder, config, seed)
    job.map("sign", sign, range(table.num_pieces), sizes=counts)
    equal = find_equal(job, spilled.key_files, counts)
    names = np.arange(total)
    names[equal[:, 0]] = -1
    similarity = np.zeros(BINS, np.int64)
    looked: list[dict[str, Any]] = []
    ranges = num_ranges(total)
    for step, (low, high) in enumerate(_rounds(num_bands(config))):
        path = job.folder / f"names-{step}.npy"
        write_array(path, names)
        items = [(band, part) for band in range(low, high) for part in range(ranges)]
        compare = partial(_compare, spilled, path, config, ranges)
        sizes = [total // ranges] * len(items)
        looked += job.map(f"compare {step + 1}", compare, items, sizes=sizes, unit="key")
        edges = np.concatenate([np.load(_edges_file(job.folder, item)) for item in items])
        joined = merge(names, edges[:, :2])
        similarity += np.bincount(edges[joined, 2], minlength=BINS)
    names[equal[:, 0]] = names[equal[:, 1]]
    gone = np.flatnonzero(names != np.arange(total))
    ids = all_ids(table)
    statistics = {"clusters": _cluster_sizes(names[gone]), "equal": len(equal), **add_up(looked)}
    statistics["similarity"] = {"from": 0.5, "to": 1.0, "counts": similarity.tolist()}
    return Dropped(ids[gone], ids[names[gone]], "near_duplicate", "of {key}", statistics)


def find_near_duplicates(texts: Sequence[str], config: NearDuplicatesConfig, seed: int) -> Numbers:
    """[N]: for each text the first one of its group, by the rule of `near_duplicates`, in this process."""
    folded = fold(pack(texts), config.shingle == "word")
    keys = keys_of(folded, config, seed)
    rows = np.arange(len(folded))
    names = rows.copy()
    equal = equal_pairs(keys[:2], rows)
    names[equal[:, 0]] = -1
    for band in keys[2:]:
        merge(names, connect(band, rows, names, folded, config)[0])
    names[equal[:, 0]] = names[equal[:, 1]]
    return names


def _rounds(bands: int) -> list[tuple[int, int]]:
    """(first band, last + 1) of each round. Later rounds have more bands: most duplicates are connected by then."""
    return list(pairwise([0, *(1 << step for step in range(bands.bit_length()) if 1 << step < bands), bands]))


def _sign_piece(table: Table, folder: Path, config: NearDuplicatesConfig, seed: int, piece: int) -> dict[str, Any]:
    columns = (config.side,) if config.side in ("query", "positive") else ("query", "positive", "negatives")
    rows = table.read(piece, columns)
    folded = fold_rows(rows.query, rows.positive, rows.negatives, config.side, config.shingle == "word")
    write_array(_file(folder, "keys", piece), keys_of(folded, config, seed))
    write_array(_file(folder, "offsets", piece), folded.offsets)
    write_array(_file(folder, "texts", piece), folded.data)
    return {}


def _compare(
    spilled: Spilled, path: Path, config: NearDuplicatesConfig, ranges: int, item: tuple[int, int]
) -> dict[str, Any]:
    """Leave the edges of a band in one range of its keys, of rows that `names` has not connected yet: int64 [E, 3],
    with the bin of their similarity."""
    band, part = item
    keys, rows = read_range(spilled.key_files, spilled.starts, slice(2 + band, 3 + band), ranges, part)
    edges, similar, looked = connect(keys[0], rows, np.load(path, mmap_mode="r"), spilled, config)
    bins = np.clip((similar - 0.5) * 2 * BINS, 0, BINS - 1).astype(np.int64)
    write_array(_edges_file(spilled.folder, item), np.column_stack([edges, bins]))
    return looked


def _cluster_sizes(names: Numbers) -> dict[str, int]:
    """Groups by number of rows. names: of the rows that go, the one that stays."""
    _, gone = np.unique(names, return_counts=True)
    sizes, groups = np.unique(np.minimum(gone + 1, CLUSTER), return_counts=True)
    return {
        f"{size}+" if size == CLUSTER else str(size): count
        for size, count in zip(sizes.tolist(), groups.tolist(), strict=True)
    }


def _file(folder: Path, kind: str, piece: int) -> Path:
    """kind: keys, offsets or texts."""
    return folder / f"{kind}-{piece:06d}.npy"


def _edges_file(folder: Path, item: tuple[int, int]) -> Path:
    return folder / f"edges-{item[0]:06d}-{item[1]:06d}.npy"
