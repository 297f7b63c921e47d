"""A teacher's vectors of all texts, for a smaller model to learn from.

Before: all other stages, so that only what is left is encoded. After: the runner puts the arrays beside the shards,
where `shards/teacher.py` reads them.

    table -> `embed`    -> a vector for each distinct text
          -> hash texts -> content hashes of the texts of each piece
          -> the arrays
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.errors import InputError
from jemb.core.files import write_array
from jemb.core.text import content_hash
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import BESIDE, Dropped, Table
from jemb.prepare.registry import StageInputs, Statistic, Tools, model_files, stage
from jemb.prepare.vectors.embeddings import embed
from jemb.prepare.vectors.numbering import ALL_COLUMNS, NUMBERS, all_texts
from jemb.shards.teacher import FIELD, KEYS, PLACES, VECTORS, keys_of


@options
class TeacherConfig:
    """Vectors of all texts by a teacher, stored beside the shards for `jemb train objective=teach`."""

    model: str | None = None
    """The teacher: a folder, also that of a finished run of `jemb train`, or a Hugging Face name. Its prompts are put
    before queries and passages."""
    dtype: Literal["fp16", "fp32"] = "fp16"
    """How a number of a vector is stored: in 2 bytes or in 4."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the teacher; null: the teacher's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the teacher on a GPU; `bf16` is several times as fast. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and teacher; null: none."""


def _look(options: TeacherConfig, tools: Tools) -> tuple[None, dict[str, Any]]:
    if options.model is None:
        raise InputError("teacher.model is missing; wanted the folder or the Hugging Face name of an encoder")
    return None, model_files("model", tools.encoder(options), options.model)


@stage(
    FIELD,
    reasons={},
    options=TeacherConfig,
    statistics={
        "texts": Statistic("Distinct texts with a vector of the teacher", "texts"),
        "width": Statistic("Numbers of such a vector"),
    },
    before=_look,
    after="cross_encoder",
    whole=True,
    gives=FIELD,
    speed_only=("batch_tokens", "cache"),
    wanted_with=("model",),
)
def teacher(table: Table, job: Job, options: TeacherConfig, inputs: StageInputs) -> Dropped:
    """Drop nothing; leave in the job's folder `BESIDE` the arrays of `shards/teacher.py`, of the queries, positives and
    negatives of all live rows.

    The arrays are a function of rows, vectors and options. Statistics: `texts`, the distinct ones with their prompts;
    `width`. Memory: 40 bytes a text. Disk: 4 * D bytes for each distinct text, and what is stored.
    """
    none = np.empty(0, np.int64)
    assert options.model is not None
    embeddings = embed(table, job, options.model, inputs.tools.encoder(options), options.cache, every=True)
    if not embeddings.texts:
        return Dropped(none, none, "")
    pieces = range(table.num_pieces)
    job.map("hash texts", partial(_hash_piece, table, job.folder), pieces, sizes=table.counts())
    beside = job.folder / BESIDE
    beside.mkdir(exist_ok=True)
    # Of equal keys the first text of all counts.
    keys, first = np.unique(
        np.concatenate([np.load(_hash_file(job.folder, piece)) for piece in pieces]), return_index=True
    )
    write_array(beside / KEYS, keys)
    write_array(beside / PLACES, np.load(job.folder / NUMBERS, mmap_mode="r")[first])
    dtype = np.float16 if options.dtype == "fp16" else np.float32
    embeddings.write(np.arange(embeddings.texts), beside / VECTORS, dtype)
    return Dropped(none, none, "", statistics={"texts": embeddings.texts, "width": embeddings.dim})


def _hash_piece(table: Table, folder: Path, piece: int) -> dict[str, Any]:
    texts = list(all_texts(table.read(piece, ALL_COLUMNS)))
    hashes = np.fromiter((content_hash(text) for _, text in texts), np.int64, len(texts))
    are_queries = np.fromiter((asks for asks, _ in texts), np.bool_, len(texts))
    write_array(_hash_file(folder, piece), np.where(are_queries, keys_of(hashes, query=True), hashes))
    return {}


def _hash_file(folder: Path, piece: int) -> Path:
    return folder / f"hashes-{piece:06d}.npy"
