"""Drop training pairs that hold a text of an evaluation task, or nearly one: scores on it would mean nothing.

Before: `near_duplicates.py`, whose kernels compare the texts. The evaluation texts are indexed once in each worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import field
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from jemb.config import Positive, Strings, options
from jemb.core.errors import InputError
from jemb.core.files import write_array
from jemb.core.text import count_words, normalise
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table, load_table, write_table
from jemb.prepare.registry import StageInputs, Statistic, Tools, stage
from jemb.tables.places import base_name

if TYPE_CHECKING:
    from jemb.prepare.near.index import Index


@options
class DecontaminateConfig:
    """Removal of pairs that are exact or near duplicates of evaluation texts."""

    against: Strings = field(default_factory=list)
    """Where the evaluation texts are: files (every text field of `.jsonl`, `.csv`, `.tsv`, `.parquet`; also `.gz`,
    `.zst`), folders of such files (a BEIR data set), or `mteb:TASK`."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of character 5-grams from which a text counts as the evaluation text; (0, 1]."""
    min_words: Positive = 3
    """Evaluation texts of fewer words are not looked for: `yes` and `Paris` are in any data. In scripts without spaces
    (Chinese, Japanese, Thai, …) each letter counts as a word."""


def _evaluation_texts(options: DecontaminateConfig, tools: Tools) -> tuple[list[str], dict[str, Any]]:
    """What the training data may not hold. Raises `InputError` where a path or task is wrong."""
    if not options.against:
        raise InputError("stage decontaminate: give decontaminate.against=[PATH, mteb:TASK, …], the evaluation texts")
    found: list[str] = []
    for entry in options.against:
        texts = choose_texts(tools.evaluation_texts(entry), options.min_words)
        if not texts:
            raise InputError(
                f"decontaminate.against: no text of at least {options.min_words} words in {entry} "
                "(decontaminate.min_words)"
            )
        found += texts
    texts = choose_texts(found, options.min_words)
    # No folders, so that they may move; other texts make another data set.
    return texts, {"against": [base_name(entry) for entry in options.against], "texts": digest(texts)}


@stage(
    "decontaminate",
    reasons={"evaluation_text": "holds a text of an evaluation task, or nearly one"},
    options=DecontaminateConfig,
    statistics={"evaluation_texts": Statistic("Evaluation texts looked for")},
    before=_evaluation_texts,
    after="near_duplicates",
    whole=True,
    wanted_with=("against",),
    advice="the evaluation was made from these data",
)
def decontaminate(table: Table, job: Job, options: DecontaminateConfig, inputs: StageInputs) -> list[Dropped]:
    """Drop a row when its query or a positive is one of the evaluation texts, or has that Jaccard similarity with one.

    Reason: `evaluation_text`; the note names its number among them. Texts are compared without case, punctuation and
    white space.
    """
    texts: list[str] = inputs.prepared
    path = job.folder / "texts.arrow"
    if not path.exists():
        write_table(path, pa.table({"text": pa.array(texts, pa.large_string())}))
    function = partial(_match_piece, table, job.folder, options.threshold, inputs.seed)
    job.map("decontaminate", function, range(table.num_pieces), sizes=table.counts())
    parts = [np.load(_found_file(job.folder, piece)) for piece in range(table.num_pieces)]
    found = np.concatenate([np.empty((0, 2), np.int64), *parts])
    statistics = {"evaluation_texts": len(texts)}
    return [Dropped(found[:, 0], found[:, 1], "evaluation_text", "evaluation text {value}", statistics)]


def choose_texts(texts: Iterable[str], min_words: int) -> list[str]:
    """Each text once, in order, without those of fewer than `min_words` words."""
    folded = {normalise(text): text for text in texts}
    return [text for text in folded.values() if count_words(text) >= min_words]


def digest(texts: Iterable[str]) -> str:
    """Names the texts: other evaluation texts make another data set."""
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode(errors="replace")).digest())
    return total.hexdigest()


def _match_piece(table: Table, folder: Path, threshold: float, seed: int, piece: int) -> dict[str, Any]:
    rows = table.read(piece, ("query", "positive", "more_positives"))
    index = _index(folder / "texts.arrow", threshold, seed)
    best = np.full(len(rows), -1, np.int64)
    for column in (rows.query, rows.positive, *map(list, zip_longest(*rows.more_positives, fillvalue=""))):
        best = np.where(best < 0, index.match(column), best)
    hit = best >= 0
    write_array(_found_file(folder, piece), np.stack([rows.ids[hit], best[hit]], axis=1))
    return {}


@lru_cache(maxsize=2)
def _index(path: Path, threshold: float, seed: int) -> Index:
    from jemb.prepare.near.index import Index

    return Index(
        load_table(path, ["text"])["text"].to_pylist(), shingle="char", ngram=5, threshold=threshold, seed=seed
    )


def _found_file(folder: Path, piece: int) -> Path:
    return folder / f"found-{piece:06d}.npy"
