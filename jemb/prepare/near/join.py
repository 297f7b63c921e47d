"""The join of near duplicates: MinHash signatures name the candidates, the exact Jaccard similarity of the shingle sets
decides, and of each connected group the lowest id stays.

Each step is a map of tasks from files to files:

    pieces ─► sign ─► a file a piece: folded texts, digests, band keys (`spill.py`)
                       │ digests, range by range: rows of equal words; the first goes on
                       │ band keys, a few bands at a time, range by range: what is connected now
                       ▼ is not compared again in the next
                      components
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table, add_up
from jemb.prepare.near.buckets import Found, band_rows, connect, equal_rows, keys_of, merge
from jemb.prepare.near.folding import Numbers, ends, fold, fold_rows, pack
from jemb.prepare.near.spill import Spills, write_spill

if TYPE_CHECKING:
    from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

FEW_ROWS = 250_000
"""Rows compared in one task, all bands in turn; and in a range of keys, up to `RANGES` of them."""
RANGES = 16
RANGE_ROWS = 8_000_000
"""Rows of a range where there are more: 100 MB of keys."""
CLUSTER = 10
"""Clusters of so many rows and more are counted together."""

Item = tuple[tuple[int, ...], int]


def join(table: Table, job: Job, config: NearDuplicatesConfig, seed: int) -> Dropped:
    """What the stage `near_duplicates` drops."""
    counts = table.counts()
    total = sum(counts)
    ranges = num_ranges(total)
    bands = config.num_perm // band_rows(config.threshold, config.num_perm)
    sign = partial(_sign_piece, table, job.folder, config, seed, ranges)
    job.map("sign", sign, range(table.num_pieces), sizes=counts)
    paths = tuple(_spill(job.folder, piece) for piece in range(table.num_pieces))
    spills = Spills(paths, ends(np.array(counts, np.int64)), 1 + bands, ranges)

    sizes = [total // ranges] * ranges
    job.map("equal", partial(_equal, spills, job.folder), range(ranges), sizes=sizes)
    equal = np.concatenate([np.load(_pairs(job.folder, f"equal-{part}")) for part in range(ranges)])
    names = np.arange(total)
    names[equal[:, 0]] = -1
    statistics: list[dict[str, Any]] = [Found().statistics()]
    for step, items in enumerate(_rounds(bands, ranges)):
        path = job.folder / f"names-{step}.npy"
        write_array(path, names)
        compare = partial(_compare, spills, job.folder, path, config)
        sizes = [total // ranges * len(bands) for bands, _ in items]
        statistics += job.map(f"compare {step + 1}", compare, items, sizes=sizes, unit="key")
        merge(names, np.concatenate([np.load(_pairs(job.folder, _label(item))) for item in items]))
    names[equal[:, 0]] = names[equal[:, 1]]

    gone = np.flatnonzero(names != np.arange(total))
    ids = spills.ids()
    counted = {"clusters": _cluster_sizes(names[gone]), "equal": len(equal)}
    return Dropped(ids[gone], ids[names[gone]], "near_duplicate", "of {key}", counted | add_up(statistics))


def find_near_duplicates(texts: Sequence[str], config: NearDuplicatesConfig, seed: int) -> Numbers:
    """[N]: for each text the first one of its group, by the rule of `near_duplicates`, in this process."""
    folded = fold(pack(texts), config.shingle == "word")
    digest, bands = keys_of(folded, config, seed)
    rows = np.arange(len(folded))
    names = rows.copy()
    equal = equal_rows(digest, rows)
    names[equal[:, 0]] = -1
    for keys in bands:
        merge(names, connect(keys, rows, names, folded, config).edges)
    names[equal[:, 0]] = names[equal[:, 1]]
    return names


def num_ranges(rows: int) -> int:
    """Of keys, by the number of rows alone, so that the same work is done with any number of workers."""
    return max(1, min(RANGES, -(-rows // FEW_ROWS)), -(-rows // RANGE_ROWS))


def _rounds(bands: int, ranges: int) -> list[list[Item]]:
    """Items (bands, range) of each round. Later rounds have more bands: most duplicates are connected by then."""
    if ranges == 1:
        return [[(tuple(range(bands)), 0)]]
    borders = [0, *(1 << step for step in range(bands.bit_length()) if 1 << step < bands), bands]
    return [[((band,), part) for band in range(low, high) for part in range(ranges)] for low, high in pairwise(borders)]


def _sign_piece(
    table: Table, folder: Path, config: NearDuplicatesConfig, seed: int, ranges: int, piece: int
) -> dict[str, Any]:
    columns = (config.side,) if config.side in ("query", "positive") else ("query", "positive", "negatives")
    rows = table.read(piece, columns)
    folded = fold_rows(rows.query, rows.positive, rows.negatives, config.side, config.shingle == "word")
    write_spill(_spill(folder, piece), rows.ids, folded, *keys_of(folded, config, seed), ranges)
    return {}


def _equal(spills: Spills, folder: Path, part: int) -> dict[str, Any]:
    write_array(_pairs(folder, f"equal-{part}"), equal_rows(*spills.digests(part)))
    return {}


def _compare(spills: Spills, folder: Path, path: Path, config: NearDuplicatesConfig, item: Item) -> dict[str, Any]:
    """Edges of some bands in one range, of which rows `names` has not connected yet."""
    bands, part = item
    names = np.load(path, mmap_mode="r" if len(bands) == 1 else None)
    edges, statistics = [], []
    for band in bands:
        found = connect(*spills.keys(1 + band, part), names, spills, config)
        edges.append(found.edges)
        statistics.append(found.statistics())
        if len(bands) > 1:
            merge(names, found.edges)
    write_array(_pairs(folder, _label(item)), np.concatenate(edges))
    return add_up(statistics)


def _cluster_sizes(names: Numbers) -> dict[str, int]:
    """Groups by number of rows. names: of the rows that go, the one that stays."""
    _, gone = np.unique(names, return_counts=True)
    sizes, groups = np.unique(np.minimum(gone + 1, CLUSTER), return_counts=True)
    return {
        f"{size}+" if size == CLUSTER else str(size): count
        for size, count in zip(sizes.tolist(), groups.tolist(), strict=True)
    }


def _label(item: Item) -> str:
    return f"{item[0][0]}-{item[1]}"


def _pairs(folder: Path, label: str) -> Path:
    return folder / f"pairs-{label}.npy"


def _spill(folder: Path, piece: int) -> Path:
    return folder / f"signed-{piece:06d}.bin"
