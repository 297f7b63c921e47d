"""Rows without content and exact duplicates, after folding white space and case (arXiv 2307.11224).

`judge` looks at each row alone; `duplicates` compares them all by digests (`jemb/prepare/equal.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jemb.config import options
from jemb.core.text import normalise
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Rows, Table, Verdict
from jemb.prepare.equal import all_ids, digest, find_equal, write_digests
from jemb.prepare.registry import StageInputs, stage
from jemb.shards import ShardReader, read_manifest

TEXTS = ("query", "positive", "negatives", "more_positives")


@options
class ExactConfig:
    """Removal of rows without content and of exact duplicates, white space and case apart."""

    across: bool = False
    """Also drop rows that a data set before this one (in order of name) has kept."""


def judge(rows: Rows, options: ExactConfig, inputs: StageInputs) -> Verdict:
    """Drop rows that say nothing, and take negatives and further positives out that do.

    Reasons: `empty` (a side has no text), `identical` (query = positive, but of labelled texts), `no_negative` (a
    triplet all of whose negatives are empty or equal its query or a positive).
    """
    verdict = Verdict()
    cleaned: list[tuple[str, ...]] = []
    more: list[tuple[str, ...]] = []
    given = rows.more_positives or [()] * len(rows)
    columns = zip(rows.query, rows.positive, rows.negatives, given, strict=True)
    for position, (query, positive, negatives, further) in enumerate(columns):
        query, positive = normalise(query), normalise(positive)
        more.append(_useful(further, query, positive) if further else ())
        useful = _useful(negatives, query, positive, *map(normalise, further)) if negatives else ()
        cleaned.append(useful)
        if not query or not positive:
            verdict.dropped[position] = ("empty", "")
        elif query == positive and inputs.kind != "labelled":
            verdict.dropped[position] = ("identical", "")
        elif negatives and not useful:
            verdict.dropped[position] = ("no_negative", "")
    if cleaned != rows.negatives:
        verdict.negatives = cleaned
    if more != given:
        verdict.more_positives = more
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
    after="generate",
    default=True,
    whole=True,
    each=judge,
    columns=TEXTS,
    across="across",
    advice="the same rows come several times, or a column is constant",
)
def duplicates(table: Table, job: Job, options: ExactConfig, inputs: StageInputs) -> list[Dropped]:
    """Of equal rows the one with the lowest id stays. Reason: `duplicate`.

    Triplets are equal when query, positive and the set of negatives are, so one pair may stay with several negatives.
    Rows that are in the data sets of `inputs.others` go too, as `duplicate_elsewhere`.
    """
    counts = table.counts()
    files = [(other, shard) for other in inputs.others for shard in read_manifest(other).shards]
    sizes = [shard.num_samples for _, shard in files]
    tasks = [
        (other / shard.file, job.folder / f"other-{number:06d}.npy") for number, (other, shard) in enumerate(files)
    ]
    job.map("digest others", _digest_shard, tasks, sizes=sizes)
    job.map("digest", partial(_digest_piece, table, job.folder), range(table.num_pieces), sizes=counts)
    paths = [path for _, path in tasks] + [_digest_file(job.folder, piece) for piece in range(table.num_pieces)]
    # Rows of other data sets come before any row of this one.
    pairs = find_equal(job, paths, sizes + counts) - sum(sizes)
    pairs = pairs[pairs[:, 0] >= 0]
    pairs = pairs[np.argsort(pairs[:, 0])]
    ids = all_ids(table)
    here, elsewhere = pairs[pairs[:, 1] >= 0], pairs[pairs[:, 1] < 0]
    return [
        Dropped(ids[here[:, 0]], ids[here[:, 1]], "duplicate", "of {key}"),
        Dropped(ids[elsewhere[:, 0]], np.full(len(elsewhere), -1), "duplicate_elsewhere", "in another data set"),
    ]


def _useful(texts: Sequence[str], *known: str) -> tuple[str, ...]:
    """Those that say something: not empty, none of the known, each once."""
    seen = {"", *known}
    useful = []
    for text in texts:
        folded = normalise(text)
        if folded not in seen:
            seen.add(folded)
            useful.append(text)
    return tuple(useful)


def _digest(query: str, positive: str, negatives: Sequence[str], more_positives: Sequence[str]) -> bytes:
    positives = "\0".join((normalise(positive), *sorted(map(normalise, more_positives))))
    return digest((normalise(query), positives, *sorted(map(normalise, negatives))))


def _digest_piece(table: Table, folder: Path, piece: int) -> dict[str, Any]:
    rows = table.read(piece, TEXTS)
    columns = (rows.query, rows.positive, rows.negatives, rows.more_positives)
    return write_digests(_digest_file(folder, piece), map(_digest, *columns))


def _digest_shard(task: tuple[Path, Path]) -> dict[str, Any]:
    """Of the samples of one tar of a finished data set."""
    tar, path = task
    reader = ShardReader(tar.parent)
    names = [shard.file for shard in reader.manifest.shards]
    sizes = [shard.num_samples for shard in reader.manifest.shards]
    start = sum(sizes[: names.index(tar.name)])
    samples = map(reader.read, range(start, start + sizes[names.index(tar.name)]))
    return write_digests(path, (_digest(s.query, s.positive, s.negatives, s.more_positives) for s in samples))


def _digest_file(folder: Path, piece: int) -> Path:
    return folder / f"digest-{piece:06d}.npy"
