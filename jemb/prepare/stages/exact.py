"""Rows without content and exact duplicates, after folding white space and case (arXiv 2307.11224).

`judge` looks at each row alone; `duplicates` compares them all by 128-bit digests, which are sorted range by range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jemb.config import options
from jemb.core.files import write_array
from jemb.core.text import normalise
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Rows, Table, Verdict
from jemb.prepare.registry import StageInputs, stage
from jemb.shards import ShardInfo, ShardReader, read_manifest

RANGE_ROWS = 8_000_000
"""Digests compared at once: 200 MB."""
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8"), ("id", "<i8")])

Digests = npt.NDArray[np.void]


@options
class ExactConfig:
    """Removal of rows without content and of exact duplicates, white space and case apart."""

    across: bool = False
    """Also drop rows that a data set before this one (in order of name) has kept."""


def judge(rows: Rows, options: ExactConfig, inputs: StageInputs) -> Verdict:
    """Drop rows that say nothing, and take negatives out that do.

    Reasons: `empty` (a side has no text), `identical` (query = positive), `no_negative` (a triplet all of whose
    negatives are empty or equal its query or positive).
    """
    verdict = Verdict()
    cleaned: list[tuple[str, ...]] = []
    columns = zip(rows.query, rows.positive, rows.negatives, strict=True)
    for position, (query, positive, negatives) in enumerate(columns):
        query, positive = normalise(query), normalise(positive)
        useful = _useful(negatives, query, positive) if negatives else ()
        cleaned.append(useful)
        if not query or not positive:
            verdict.dropped[position] = ("empty", "")
        elif query == positive:
            verdict.dropped[position] = ("identical", "")
        elif negatives and not useful:
            verdict.dropped[position] = ("no_negative", "")
    if cleaned != rows.negatives:
        verdict.negatives = cleaned
    return verdict


@stage(
    "exact",
    reasons={
        "empty": "query or positive has no text",
        "identical": "query and positive are the same text",
        "no_negative": "no negative is left, in data that have negatives",
        "duplicate": "equal to an earlier row, case and white space apart",
        "duplicate_elsewhere": "equal to a row of another data set",
    },
    options=ExactConfig,
    after=None,
    default=True,
    whole=True,
    each=judge,
    across="across",
    advice="the same rows come several times, or a column is constant",
)
def duplicates(table: Table, job: Job, options: ExactConfig, inputs: StageInputs) -> list[Dropped]:
    """Of equal rows the one with the lowest id stays. Reason: `duplicate`.

    Triplets are equal when query, positive and the set of negatives are, so one pair may stay with several negatives.
    Rows that are in the data sets of `inputs.others` go too, as `duplicate_elsewhere`.
    """
    others = inputs.others
    counts = table.counts()
    tasks: list[tuple[Path, Path]] = []
    for number, other in enumerate(others):
        tasks += [(other / shard.file, job.folder / f"other-{number}-{shard.file}.npy") for shard in _shards(other)]
    sizes = [shard.num_samples for other in others for shard in _shards(other)]
    job.map("digest others", _digest_shard, tasks, sizes=sizes)
    job.map("digest", partial(_digest_piece, table, job.folder), range(table.num_pieces), sizes=counts)
    total = sum(counts) + sum(sizes)
    num_ranges = 1 << max(0, (total - 1) // RANGE_ROWS).bit_length()
    files = [path for _, path in tasks] + [_digest_file(job.folder, piece) for piece in range(table.num_pieces)]
    compare = partial(_compare, files, num_ranges, job.folder)
    job.map("compare", compare, range(num_ranges), sizes=[total // num_ranges] * num_ranges)
    found = [np.load(_equal_file(job.folder, number)) for number in range(num_ranges)]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    pairs = pairs[np.argsort(pairs[:, 0])]
    here, elsewhere = pairs[pairs[:, 1] >= 0], pairs[pairs[:, 1] < 0]
    return [
        Dropped(here[:, 0], here[:, 1], "duplicate", "of {key}"),
        Dropped(elsewhere[:, 0], elsewhere[:, 1], "duplicate_elsewhere", "in another data set"),
    ]


def _useful(negatives: Sequence[str], query: str, positive: str) -> tuple[str, ...]:
    """The negatives that say something: not empty, not the query or positive, each once."""
    seen = {"", query, positive}
    useful = []
    for text in negatives:
        folded = normalise(text)
        if folded not in seen:
            seen.add(folded)
            useful.append(text)
    return tuple(useful)


def _digest(query: str, positive: str, negatives: Sequence[str]) -> bytes:
    """128 bits: among 10^9 rows the chance that any two different ones agree is below 10^-20."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (normalise(query), normalise(positive), *sorted(map(normalise, negatives))):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _digest_piece(table: Table, folder: Path, piece: int) -> dict[str, Any]:
    rows = table.read(piece)
    digests = map(_digest, rows.query, rows.positive, rows.negatives)
    return _write_digests(_digest_file(folder, piece), b"".join(digests), rows.ids)


def _digest_shard(task: tuple[Path, Path]) -> dict[str, Any]:
    """Samples of a finished data set; ids below 0, so that they come before any row of this one."""
    tar, path = task
    reader = ShardReader(tar.parent)
    start = 0
    for shard in reader.manifest.shards:
        if shard.file == tar.name:
            break
        start += shard.num_samples
    samples = (reader.read(start + row) for row in range(shard.num_samples))
    digests = b"".join(_digest(sample.query, sample.positive, sample.negatives) for sample in samples)
    return _write_digests(path, digests, np.full(shard.num_samples, -1, np.int64))


def _write_digests(path: Path, digests: bytes, ids: npt.NDArray[np.int64]) -> dict[str, Any]:
    words = np.frombuffer(digests, "<u8").reshape(-1, 2)
    table = np.empty(len(ids), DIGEST)
    table["high"], table["low"], table["id"] = words[:, 0], words[:, 1], ids
    write_array(path, table)
    return {}


def _compare(files: Sequence[Path], num_ranges: int, folder: Path, number: int) -> dict[str, Any]:
    """(id, lowest id of the same digest) of every row of one range of digests that is not the first of its kind."""
    parts = [np.empty(0, DIGEST)]
    for path in files:
        digests = np.load(path, mmap_mode="r")
        parts.append(digests[digests["high"] % np.uint64(num_ranges) == number])
    digests = np.concatenate(parts)
    digests = digests[np.lexsort((digests["id"], digests["low"], digests["high"]))]
    same = (digests["high"][1:] == digests["high"][:-1]) & (digests["low"][1:] == digests["low"][:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(digests) else np.empty(0, np.intp)
    first = np.repeat(digests["id"][starts], np.diff(np.append(starts, len(digests))))
    again = np.concatenate([[False], same])[: len(digests)] & (digests["id"] >= 0)
    write_array(_equal_file(folder, number), np.stack([digests["id"][again], first[again]], axis=1))
    return {}


def _shards(folder: Path) -> tuple[ShardInfo, ...]:
    return read_manifest(folder).shards


def _digest_file(folder: Path, piece: int) -> Path:
    return folder / f"digest-{piece:06d}.npy"


def _equal_file(folder: Path, number: int) -> Path:
    return folder / f"equal-{number:06d}.npy"
