"""Which model should say whether a pair belongs together, and which passages should count against it?

The consistency filter's rule on pairs that people have labelled: tweets (the same or not), questions and sentences
(answers or not), sentences (MRPC); and on sets where nobody has, of which it should keep much, and little of the same
with the positives shifted. Auxiliary models: all-MiniLM-L6-v2, a static model made from it, the tiny model after the
pair phase on other data, BM25. A passage counts against a pair that scores above the positive; with `alike` not one
whose cosine with the positive is at least that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments import ablation, supervision
from benchmarks.experiments.lab import Lab
from jemb.evaluate.bm25 import Bm25
from jemb.model import encode, find_folder, load_encoder
from jemb.prepare.stages.consistency import MOST, TOLERANCE

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LABELLED = ["noise/twitter_url_labelled", "noise/wikiqa_labelled", "noise/mrpc_labelled"]
OTHERS = {
    "pairs/covid_faq": 2000,
    "pairs/asset_simplification": 3000,
    "pairs/multi30k_captions": 3000,
    "pairs/debian_package": 3000,
    "pairs/nl2bash": 3000,
    "pairs/tldr_task_command": 3000,
    "pairs/medquad": 2000,
}
MODELS = ("MiniLM", "static", "tiny after pairs", "BM25")
STUDENTS_OF = ("static", "tiny after pairs")
"""Auxiliary models that filter what a student learns from; all-MiniLM is the one of `ablation`."""
ROWS = 6_000
"""Of a labelled set: all rows of as many queries as that makes."""
TOP_K = (1, 2, 5, 10)
ALIKE = (None, 0.95, 0.9, 0.85, 0.8)
MAX_LENGTH = 128
BLOCK = 256
SIF, WIDTH = 1e-4, 256

Scores = Callable[[slice], np.ndarray]
"""Queries -> their scores of all passages."""


def run(lab: Lab, seed: int) -> None:
    """Nothing is drawn in the verdicts but the tiny model's weights, so one seed shows; students have several."""
    if not seed:
        for name in LABELLED:
            for model in MODELS:
                measure(lab, name, model, some_queries(lab.material.rows(name)))
        for name, limit in OTHERS.items():
            measure(lab, name, "MiniLM", some_queries(lab.material.rows(name))[:limit])
    for model in STUDENTS_OF:
        if not lab.scored("auxiliary student", model, seed):
            shards = filtered_by(lab, model)
            run = lab.train("auxiliary", f"student-of-{model.replace(' ', '-')}", seed, shards)
            lab.score("auxiliary student", model, seed, run)


def filtered_by(lab: Lab, model: str) -> Path:
    """The noisy pairs of `ablation`, whose own arms are the raw pairs and what all-MiniLM leaves of them."""
    raw = lab.raw("ablation", lambda: ablation.dirty(lab.material))
    options = [f"consistency.encoder={folder_of(lab, model)}"]
    if model != "tiny after pairs":
        options.append("consistency.max_length=64")
    return lab.prepare(f"ablation-by-{model.replace(' ', '-')}", raw, ablation.FILTERS["consistency"], *options)


def some_queries(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """All rows of the first queries, `ROWS` or a few more."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["query"], []).append(row)
    found: list[dict[str, Any]] = []
    for some in of.values():
        found += some if len(found) < ROWS else ()
    return found


def measure(lab: Lab, name: str, model: str, rows: Sequence[dict[str, Any]]) -> None:
    """A line in results.jsonl: by each rule, the shares of right pairs kept, of wrong ones, and of right ones among
    those kept."""
    if lab.scored(f"auxiliary {name}", model, 0):
        return
    queries, query_of = number([row["query"] for row in rows])
    passages, passage_of = number([row["positive"] for row in rows])
    score, vectors = lexical(queries, passages) if model == "BM25" else dense(lab, name, model, queries, passages)
    right = np.array([row.get("label", 1) for row in rows]) == 1
    own = count_better(score, vectors, query_of, passage_of)
    shifted = count_better(score, vectors, query_of, np.roll(passage_of, len(rows) // 2))
    scores = {}
    for alike, better in own.items():
        rule = f"alike {alike}" if alike else "all"
        for k in TOP_K:
            kept = better < k
            scores[f"{rule} {k} recall"] = share(kept[right])
            scores[f"{rule} {k} shifted kept"] = share(shifted[alike] < k)
            if not right.all():
                scores |= {f"{rule} {k} precision": share(right[kept]), f"{rule} {k} wrong kept": share(kept[~right])}
    line = {"experiment": f"auxiliary {name}", "arm": model, "seed": 0, "scores": scores}
    lab.note(line | {"passages": len(passages)})


def number(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(the distinct texts, which of them each is)."""
    places: dict[str, int] = {}
    numbers = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.array(numbers)


def dense(
    lab: Lab, name: str, model: str, queries: Sequence[str], passages: Sequence[str]
) -> tuple[Scores, np.ndarray]:
    file = lab.folder / "vectors" / f"{name} {model}.npz".replace("/", "_")
    if not file.exists():
        cut = None if model == "tiny after pairs" else MAX_LENGTH  # it has 32 positions
        encoder = load_encoder(str(folder_of(lab, model)), max_length=cut)
        file.parent.mkdir(exist_ok=True)
        began = time.monotonic()
        q, p = (np.asarray(encode(encoder, list(texts))) for texts in (queries, passages))
        rate = (len(q) + len(p)) / (time.monotonic() - began)
        print(f"{name}, {model}: {rate:.0f} texts a second", flush=True)
        np.savez(file, q=q, p=p)
    with np.load(file) as made:
        q, p = made["q"], made["p"]
    return lambda rows: q[rows] @ p.T, p


def folder_of(lab: Lab, model: str) -> Path:
    if model == "tiny after pairs":
        _, pairs = supervision.prepare_pairs(lab)
        return lab.train("auxiliary", "tiny-after-pairs", 0, pairs) / "model"
    if model == "MiniLM":
        return find_folder(MODEL)
    folder = lab.folder / "models" / "static"
    if not folder.exists():
        make_static(folder)
    return folder


def make_static(folder: Path) -> None:
    """A vector for each token, that of a text of this token alone, without what all have in common, cut to the main
    axes, and less for tokens of low rank, which are frequent: as model2vec does. A text is the mean of its tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    encoder = load_encoder(str(find_folder(MODEL)))
    vectors = np.asarray(encode(encoder, [encoder.tokenizer.decode([n]) for n in range(len(encoder.tokenizer))]), float)
    vectors -= vectors.mean(0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    share_of = 1 / np.arange(1, len(vectors) + 1)
    weights = SIF / (SIF + share_of / share_of.sum())
    vectors = weights[:, None] * (vectors @ axes[:, ::-1][:, :WIDTH])
    module = StaticEmbedding(encoder.tokenizer, embedding_weights=torch.tensor(vectors, dtype=torch.float32))
    SentenceTransformer(modules=[module]).save(str(folder), create_model_card=False)


def lexical(queries: Sequence[str], passages: Sequence[str]) -> tuple[Scores, None]:
    index = Bm25(passages)
    return lambda rows: np.stack(list(index.scores(queries[rows]))), None


def count_better(
    score: Scores, vectors: np.ndarray | None, query_of: np.ndarray, passage_of: np.ndarray
) -> dict[float | None, np.ndarray]:
    """For each value of `alike` how many passages count against each row."""
    found = {alike: np.zeros(len(query_of), int) for alike in (ALIKE if vectors is not None else (None,))}
    for rows, scores in by_query(score, query_of):
        for row, passage in zip(rows.tolist(), passage_of[rows].tolist(), strict=True):
            better = np.flatnonzero(scores > scores[passage] + TOLERANCE)
            cosines = (
                np.zeros(len(better)) if vectors is None or len(better) > MOST else vectors[better] @ vectors[passage]
            )
            for alike, counts in found.items():
                counts[row] = len(better) - (np.count_nonzero(cosines >= alike) if alike else 0)
    return found


def by_query(score: Scores, query_of: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(the rows of a query, its scores of all passages)."""
    order = np.argsort(query_of, kind="stable")
    starts = np.searchsorted(query_of[order], np.arange(query_of.max() + 2))
    for first in range(0, len(starts) - 1, BLOCK):
        block = score(slice(first, first + BLOCK))
        for place, scores in enumerate(block):
            yield order[starts[first + place] : starts[first + place + 1]], scores


def share(flags: np.ndarray) -> float:
    return round(100 * float(flags.mean()), 2) if len(flags) else float("nan")
