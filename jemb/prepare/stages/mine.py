"""Hard negatives: for each query, passages of the data set that an encoder finds near it and that do not answer it.

Before: `consistency.py` and `negation.py`. After: `cross_encoder.py` looks at each of them more closely. The bound of
95 % of the positive's score is that of NV-Retriever (arXiv 2407.15831), the random draw of 7 among the first 20 that of
nomic-embed.

    table -> hash    -> which passage says what a query says, or answers it
          -> `embed` -> a vector for each distinct text
          -> pool    -> ids, vectors and texts of the passages to choose from, each text once
          -> search  -> nearest passages of each query -> `choose_negatives` -> their texts, beside the piece
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table, add_up, histogram, load_table, write_negatives, write_table
from jemb.prepare.equal import Numbers, all_ids, draw, ends
from jemb.prepare.registry import StageInputs, Statistic, stage
from jemb.prepare.vectors.hard_negatives import NONE, Hashes, Passages, Queries, find_negatives, hashes, pair_keys

if TYPE_CHECKING:
    from jemb.prepare.vectors.embeddings import Embeddings

BINS = 40
MEMBER = np.dtype([("id", "<i8"), ("row", "<i8"), ("number", "<i8"), ("hash", "<u8")])

Members = npt.NDArray[np.void]
"""The pool, [P] in order of id. Of the row whose positive a passage is: id, and place among all live rows; of the text:
its number among the embeddings, and its hash."""

MEMBERS, KNOWN, POOL = "members.npy", "known.npy", "pool.npy"


@options
class MineConfig:
    """Hard negatives: passages of the data set that an encoder finds near the query, other than its positives."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Encoder that ranks the passages: a folder or a Hugging Face name."""
    pool_size: Positive = 1_000_000
    """Passages drawn from the same data set's positives to choose from; a smaller data set is its own pool."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Passages passed over at the top of the ranking, as the likeliest to be right answers after all."""
    top: Positive = 20
    """Passages after those that may become negatives."""
    num_negatives: Positive = 7
    """Negatives drawn at random of what `top` and the bounds leave; fewer where fewer are left."""
    max_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """A negative's cosine may be at most this share of the positive's; (0, 1], null: no such bound."""
    margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """And at most the positive's less this; 0 to 2, null: no such bound."""
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine of a negative; -1 to 1, null: no such bound."""
    replace: bool = False
    """Put mined negatives in the place of those a row has; else they follow them."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder on a GPU. `fp32` keeps the rows that a CPU keeps; `bf16` is several times as fast and
    decides otherwise on one or two rows of a thousand. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and encoder; null: none."""

    def __post_init__(self) -> None:
        if self.num_negatives > self.top:
            raise ValueError(f"mine.num_negatives={self.num_negatives} is more than mine.top={self.top} passages")


@stage(
    "mine",
    reasons={"no_negative": "no negative is left, in data that have negatives"},
    options=MineConfig,
    statistics={
        "positive": Statistic("Similarity of query and positive", axis="cosine"),
        "negative": Statistic("Similarity of query and mined negatives", "negatives", "cosine"),
        "rows": Statistic("Rows by number of mined negatives"),
    },
    after="negation",
    whole=True,
    adds_negatives=True,
    speed_only=("batch_tokens", "cache"),
    advice="the bounds leave no passage: raise mine.max_share or mine.top",
)
def mine(table: Table, job: Job, options: MineConfig, inputs: StageInputs) -> Dropped:
    """Give each row up to `num_negatives` hard negatives; a row that has none after that is dropped as `no_negative`.

    They are left beside the pieces, in the job's folder (`table.changes_file`), for all live rows. No negative equals
    the query, a positive of any row with an equal query, or a negative the row has already, white space and case apart.
    The result is a function of rows, vectors, options and seed. Statistics: histograms of the cosine of each query with
    its `positive` and with its mined `negative` passages; `rows` by the number of negatives mined.
    Memory: that of `embed`, and 60 bytes a row; of a worker, the texts that a piece is given.
    Disk: 4 * D bytes for each text and passage, and the pool's texts.
    """
    counts = table.counts()
    if not sum(counts):
        return Dropped(np.empty(0, np.int64), np.empty(0, np.int64), "no_negative")
    offsets = ends(np.array(counts, np.int64))
    pieces = range(table.num_pieces)
    from jemb.prepare.vectors.embeddings import embed

    embeddings = embed(table, job, options.encoder, inputs.tools.encoder(options), options.cache)
    job.map("hash", partial(_hash_piece, table, job.folder), pieces, sizes=counts)
    if not (job.folder / POOL).exists():
        texts = np.concatenate([np.load(_hash_file(job.folder, piece)) for piece in pieces], axis=1)
        write_array(job.folder / KNOWN, np.unique(pair_keys(*texts)))
        members = _draw_pool(all_ids(table), embeddings.numbers()[1], texts[1], options.pool_size, inputs.seed)
        write_array(job.folder / MEMBERS, members)
        embeddings.write(members["number"], job.folder / POOL)
    job.map("texts", partial(_write_texts, table, job.folder, offsets), pieces, sizes=counts)
    search = partial(_mine_piece, table, job.folder, offsets, embeddings, options, inputs.seed)
    results = job.map("search", search, pieces, sizes=counts, gpu=True)
    ids = np.concatenate([np.load(_without_file(job.folder, piece)) for piece in pieces])
    return Dropped(ids, np.zeros_like(ids), "no_negative", statistics=add_up(results))


def _hash_piece(table: Table, folder: Path, piece: int) -> dict[str, Any]:
    rows = table.read(piece, ("query", "positive"))
    write_array(_hash_file(folder, piece), np.stack([hashes(rows.query), hashes(rows.positive)]))
    return {}


def _draw_pool(ids: Numbers, positives: Numbers, texts: Hashes, pool_size: int, seed: int) -> Members:
    """The positives of `pool_size` rows; of equal texts among them the one with the lowest id.

    All [N], of the live rows: ids, numbers of the positives among the embeddings, hashes of these.
    """
    rows = draw(ids, pool_size, seed, "mine pool")
    _, first = np.unique(texts[rows], return_index=True)
    rows = rows[np.sort(first)]
    members = np.empty(len(rows), MEMBER)
    members["id"], members["row"], members["number"], members["hash"] = ids[rows], rows, positives[rows], texts[rows]
    return members


def _write_texts(table: Table, folder: Path, offsets: Numbers, piece: int) -> dict[str, Any]:
    """The texts of the pool that come from a piece, in the order of the pool."""
    rows = np.load(folder / MEMBERS, mmap_mode="r")["row"]
    first, last = np.searchsorted(rows, offsets[piece : piece + 2])
    texts = table.read(piece, ("positive",)).positive if first < last else []
    chosen = [texts[row] for row in (rows[first:last] - offsets[piece]).tolist()]
    write_table(_text_file(folder, piece), pa.table({"text": pa.array(chosen, pa.large_string())}))
    return {}


def _read_texts(folder: Path, offsets: Numbers, passages: Numbers) -> dict[int, str]:
    """The texts of these rows of the pool, which ascend."""
    rows = np.load(folder / MEMBERS, mmap_mode="r")["row"]
    firsts = np.searchsorted(rows, offsets)
    texts: dict[int, str] = {}
    for piece, (first, last) in enumerate(pairwise(firsts)):
        low, high = np.searchsorted(passages, [first, last])
        if low < high:
            stored = load_table(_text_file(folder, piece), ["text"])["text"]
            found = stored.take(pa.array(passages[low:high] - first)).to_pylist()
            texts.update(zip(passages[low:high].tolist(), found, strict=True))
    return texts


def _mine_piece(
    table: Table, folder: Path, offsets: Numbers, embeddings: Embeddings, config: MineConfig, seed: int, piece: int
) -> dict[str, Any]:
    """Leave the negatives of the rows of a piece, and the ids of those that have none; statistics of them."""
    from jemb.prepare.vectors.embeddings import StoredVectors
    from jemb.prepare.vectors.scoring import exact_scores

    rows = table.read(piece, ("negatives",))
    if not len(rows):
        write_array(_without_file(folder, piece), rows.ids)
        return {}
    kept = [()] * len(rows) if config.replace else rows.negatives
    numbers, positives = embeddings.numbers(*offsets[piece : piece + 2].tolist())
    own = exact_scores(embeddings.take(numbers), embeddings.take(positives))
    queries = Queries(rows.ids, numbers, np.load(_hash_file(folder, piece))[0], own, kept)
    members, known = np.load(folder / MEMBERS), np.load(folder / KNOWN, mmap_mode="r")
    pool = Passages(StoredVectors.open(folder / POOL), members["id"], members["hash"])
    chosen, scores = find_negatives(queries, embeddings.take, pool, known, config, seed)
    texts = _read_texts(folder, offsets, np.unique(chosen[chosen != NONE]))
    negatives = [
        (*had, *(texts[passage] for passage in passages if passage != NONE))
        for had, passages in zip(kept, chosen.tolist(), strict=True)
    ]
    write_negatives(folder, piece, rows.ids, negatives)
    write_array(_without_file(folder, piece), rows.ids[[not found for found in negatives]])
    mined, times = np.unique(np.count_nonzero(chosen != NONE, axis=1), return_counts=True)
    return {
        "positive": histogram(own, BINS, -1.0, 1.0),
        "negative": histogram(scores[chosen != NONE], BINS, -1.0, 1.0),
        "rows": dict(zip(map(str, mined.tolist()), times.tolist(), strict=True)),
    }


def _hash_file(folder: Path, piece: int) -> Path:
    return folder / f"hashes-{piece:06d}.npy"


def _text_file(folder: Path, piece: int) -> Path:
    return folder / f"texts-{piece:06d}.arrow"


def _without_file(folder: Path, piece: int) -> Path:
    return folder / f"without-{piece:06d}.npy"
