"""Last: the kept rows in one global random order, as shards; and the dropped ones, all of them or a few to be shown.

Before: `run.py` has the table with every verdict. After: `data/` reads the shards. Each piece is encoded and sorted by
the rows' places in the shuffle; each shard then takes its stretch of every piece. Memory: 16 bytes for each row, and
one piece or shard for each worker; disk: the data once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jemb.core.files import link_file, write_array
from jemb.core.records import Sample
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Rows, Table, key_of, load_table, scrambled, write_table
from jemb.prepare.engine.verdicts import read_drops
from jemb.prepare.equal import all_ids
from jemb.shards import FileInfo, ShardInfo, encode_payload, write_shard
from jemb.shards.writer import fields_of

COLUMNS = ("query", "positive", "negatives", "extra", "more_positives", "score", "label", "scores")
SPILL = pa.schema([("rank", pa.int64()), ("id", pa.int64()), ("payload", pa.large_binary())])
EXAMPLES, LENGTH = 5, 300
"""Dropped rows shown for each reason, and characters of a text."""

Verdicts = dict[str, list[Path]]
"""Stage -> folders of its verdicts."""


def write_shards(
    table: Table, job: Job, folder: Path, shard_samples: int, seed: int
) -> tuple[list[ShardInfo], tuple[str, ...]]:
    """All live rows in hash order of (seed, id), `shard_samples` a shard but the last, in `folder`; and which fields
    the samples have, as `Manifest.fields`."""
    counts = table.counts()
    ranks = job.folder / "ranks.npy"
    if not ranks.exists():
        ids = all_ids(table)
        order = np.empty(len(ids), np.int64)
        order[np.argsort(scrambled(ids, seed, "shuffle"))] = np.arange(len(ids))
        write_array(ranks, order)
    spans = list(pairwise([0, *np.cumsum(counts).tolist()]))
    spilled = job.map("shuffle", partial(_spill, table, job.folder), list(enumerate(spans)), sizes=counts)
    fields = sorted({name for result in spilled for name in result["fields"]})
    total = sum(counts)
    starts = list(range(0, total, shard_samples))
    gather = partial(_gather, job.folder, table.num_pieces, folder, shard_samples)
    sizes = [min(shard_samples, total - start) for start in starts]
    return [ShardInfo(**info) for info in job.map("write", gather, range(len(starts)), sizes=sizes)], tuple(fields)


def write_dropped(table: Table, verdicts: Verdicts, job: Job, folder: Path) -> list[ShardInfo]:
    """The dropped rows, a shard a piece, with `stage`, `reason` and `note` as fields; a triplet's negatives as
    `dropped_negatives`."""
    function = partial(_write_drops, Table(table.pieces), verdicts, folder)
    infos = job.map("write dropped", function, range(table.num_pieces), sizes=[piece.rows for piece in table.pieces])
    return [ShardInfo(**info) for info in infos if info]


def find_examples(table: Table, verdicts: Verdicts, job: Job, seed: int) -> dict[str, dict[str, list[dict[str, str]]]]:
    """stage -> reason (all of `language:…` as one) -> some of the dropped rows, drawn by seed, for a reader of the
    report to judge the filters by: key, query, positive, reason, note."""
    draw = partial(_draw_examples, Table(table.pieces), verdicts, seed)
    results = job.map("examples", draw, range(table.num_pieces), sizes=[piece.rows for piece in table.pieces])
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for stage, reason, _, example in sorted(drawn for result in results for drawn in result["drawn"]):
        rows = found.setdefault(stage, {}).setdefault(reason, [])
        if len(rows) < EXAMPLES:
            rows.append(example)
    return found


def put_beside(folder: Path, path: Path) -> FileInfo:
    """A stage's file beside the shards in `folder`."""
    link_file(path, folder / path.name)
    with path.open("rb") as file:
        return FileInfo(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _spill(table: Table, folder: Path, task: tuple[int, tuple[int, int]]) -> dict[str, Any]:
    """A piece as encoded samples in the order of their ranks."""
    piece, (start, end) = task
    rows = table.read(piece, COLUMNS)
    ranks = np.load(folder / "ranks.npy", mmap_mode="r")[start:end]
    order = np.argsort(ranks)
    samples = [_sample(rows, position) for position in order.tolist()]
    payloads = list(map(encode_payload, samples))
    write_table(_spill_file(folder, piece), pa.table([ranks[order], rows.ids[order], payloads], schema=SPILL))
    return {"fields": sorted(set().union(*map(fields_of, samples)))}


def _gather(spills: Path, num_pieces: int, folder: Path, shard_samples: int, shard: int) -> dict[str, Any]:
    """One shard from its stretch of every piece."""
    parts: list[tuple[int, int, bytes]] = []
    for piece in range(num_pieces):
        spill = load_table(_spill_file(spills, piece), SPILL.names)
        low, high = np.searchsorted(spill["rank"], [shard * shard_samples, (shard + 1) * shard_samples])
        mine = spill.slice(low, high - low)
        parts += zip(*(mine[name].to_pylist() for name in SPILL.names), strict=True)
    parts.sort()
    info = write_shard(folder / f"shard-{shard:06d}.tar", ((key_of(row), payload) for _, row, payload in parts))
    return asdict(info)


def _drops(verdicts: Verdicts, piece: int) -> Iterator[tuple[str, int, str, str]]:
    """(stage, row, reason, note) of all rows of a piece that were dropped."""
    for stage, folders in verdicts.items():
        for folder in folders:
            yield from ((stage, *drop) for drop in read_drops(folder, piece))


def _draw_examples(table: Table, verdicts: Verdicts, seed: int, piece: int) -> dict[str, Any]:
    """drawn: [stage, reason, place in the draw, row]."""
    drops = list(_drops(verdicts, piece))
    orders = scrambled(np.array([row for _, row, _, _ in drops], np.int64), seed, "examples").tolist()
    families: dict[tuple[str, str], list[tuple[int, int, str, str]]] = {}
    for order, (stage, row, reason, note) in zip(orders, drops, strict=True):
        families.setdefault((stage, reason.partition(":")[0]), []).append((order, row, reason, note))
    rows = table.read(piece, ("query", "positive") if families else ())
    drawn = []
    for (stage, family), found in families.items():
        for order, row, reason, note in sorted(found)[:EXAMPLES]:
            position = int(np.searchsorted(rows.ids, row))
            texts = {"query": _start(rows.query[position]), "positive": _start(rows.positive[position])}
            drawn.append([stage, family, order, {"key": key_of(row), **texts, "reason": reason, "note": note}])
    return {"drawn": drawn}


def _start(text: str) -> str:
    return text if len(text) <= LENGTH else text[:LENGTH] + "…"


def _write_drops(table: Table, verdicts: Verdicts, folder: Path, piece: int) -> dict[str, Any]:
    why = {
        row: {"stage": stage, "reason": reason, "note": note} for stage, row, reason, note in _drops(verdicts, piece)
    }
    if not why:
        return {}
    rows = table.read(piece, COLUMNS)

    def members() -> Iterator[tuple[str, bytes]]:
        for position, row in enumerate(rows.ids.tolist()):
            if row in why:
                sample = _sample(rows, position)
                extra = {**sample.extra, **why[row]}
                extra |= {name: value for name in ("score", "label") if (value := getattr(sample, name)) is not None}
                if sample.negatives:
                    extra["dropped_negatives"] = list(sample.negatives)
                yield sample.key, encode_payload(Sample(sample.key, sample.query, sample.positive, extra=extra))

    return asdict(write_shard(folder / f"shard-{piece:06d}.tar", members()))


def _sample(rows: Rows, position: int) -> Sample:
    extra = json.loads(rows.extra[position]) if rows.extra[position] else {}
    key = key_of(int(rows.ids[position]))
    label = rows.label[position]
    return Sample(
        key,
        rows.query[position],
        rows.positive[position],
        rows.negatives[position],
        extra,
        rows.more_positives[position],
        rows.score[position],
        None if label is None else json.loads(label),
        rows.scores[position],
    )


def _spill_file(folder: Path, piece: int) -> Path:
    return folder / f"spill-{piece:06d}.arrow"
