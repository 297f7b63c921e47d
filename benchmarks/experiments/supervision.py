"""Teachers and scores: what a small model gains from all-MiniLM-L6-v2's opinion, and from people's grades.

distill     the same pairs, steps and seeds: contrastive, with hard negatives that the teacher mined, by the teacher's
            scores of these (KL), by its vectors (`teach`); sentence-transformers' losses for the same beside them
scored      STSb's train set on top of the contrastive model: CoSENT here and in sentence-transformers
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.lab import Lab, append_line
from benchmarks.experiments.peer_trainer import train
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.core.records import Sample
from jemb.model import encode, find_folder, load_encoder
from jemb.shards import open_datasets

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
SETS = ["quora_duplicates", "multi30k_captions", "nli_entailment", "squad_question_sentence", "asset_simplification",
        "disfl_qa"]  # fmt: skip
LIMIT = 2_000
"""Pairs of each data set; the recipe's 200 steps of 64 see each about once."""
NEGATIVES = 4
"""Hard negatives a row in a step."""
TEACHER_TEMPERATURE = 0.05
"""The teacher's scores are cosines, as the student's."""
GRADED = "sts/stsb_en_train"
SCORED = ["learning_rate=2e-4", "max_steps=180", "warmup_steps=18"]
"""Two passes over STSb's train set in batches of 64."""


def run(lab: Lab, seed: int) -> None:
    pairs, triplets, scored, taught = prepare(lab)
    options = {"num_negatives": NEGATIVES, "objective_options.teacher_temperature": TEACHER_TEMPERATURE}
    kl = ["objective=distill", *(f"{name}={value}" for name, value in options.items())]
    arms: dict[str, tuple[Path, list[str]]] = {
        "contrastive": (pairs, []),
        "mined negatives": (triplets, ["objective=triplets", f"num_negatives={NEGATIVES}"]),
        "distill": (scored, kl),
        "teach": (taught, ["objective=teach"]),
        "teach and contrastive": (taught, ["objective=teach", "objective_options.contrastive=0.1"]),
    }
    models = {}
    for arm, (shards, given) in arms.items():
        models[arm] = lab.train("distill", arm.replace(" ", "-"), seed, shards, *given)
        lab.score("distill", arm, seed, models[arm])
    start = lab.start_model(seed)
    _peer(lab, "distill", "ST contrastive", seed, start, pairs, _pairs, None)
    _peer(lab, "distill", "ST distill", seed, start, scored, _scored_negatives, _kl)
    _peer(lab, "distill", "ST teach", seed, start, pairs, _with_vectors, _embed_distill)

    graded = graded_pairs(lab)
    before = models["contrastive"]
    lab.score("scored", "before", seed, before)
    after = lab.train("scored", "scored", seed, graded, "objective=scored", f"init={before}", *SCORED)
    lab.score("scored", "scored", seed, after)
    _peer(lab, "scored", "ST CoSENT", seed, before / "model", graded, _graded, _cosent, *SCORED)


def prepare(lab: Lab) -> tuple[Path, Path, Path, Path]:
    """(pairs, the same with mined negatives, these with the teacher's scores, the pairs with its vectors)."""
    raw, pairs = prepare_pairs(lab)
    cache = f"cache={lab.folder / 'vectors'}"
    mine = [f"mine.{cache}", "mine.max_length=64", "mine.without_negatives=drop"]
    triplets = lab.prepare("teacher-triplets", raw, ["exact", "near_duplicates", "language", "mine"], *mine)
    scored = lab.raw("teacher-scores", lambda: dict(with_scores(triplets)))
    teach = [f"teacher.model={TEACHER}", f"teacher.{cache}", "teacher.max_length=64"]
    taught = lab.prepare("teacher-vectors", raw, ["exact", "near_duplicates", "language", "teacher"], *teach)
    return pairs, triplets, lab.prepare("teacher-scores", scored, []), taught


def prepare_pairs(lab: Lab) -> tuple[Path, Path]:
    """(raw, filtered)."""
    names = lab.material.chosen(SETS)
    raw = lab.raw("teacher", lambda: {name: lab.material.rows(f"pairs/{name}", LIMIT) for name in names})
    return raw, lab.prepare("teacher-pairs", raw, ["exact", "near_duplicates", "language"])


def with_scores(triplets: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The teacher's cosine of each query with its positive and its negatives."""
    for name, reader in open_datasets(triplets).items():
        samples = [sample for sample in reader if sample.negatives]
        vector_of = teacher_vectors(text for sample in samples for text in sample.texts)
        rows = []
        for sample in samples:
            query, *answers = (vector_of[text] for text in sample.texts)
            row = {"query": sample.query, "positive": sample.positive, "negatives": list(sample.negatives)}
            rows.append(row | {"scores": [round(float(query @ answer), 5) for answer in answers]})
        yield name, rows


def graded_pairs(lab: Lab) -> Path:
    def rows() -> Mapping[str, list[dict[str, Any]]]:
        found = lab.material.rows(GRADED)
        return {
            "stsb": [{"query": r["sentence1"], "positive": r["sentence2"], "score": float(r["score"])} for r in found]
        }

    return lab.prepare("stsb", lab.raw("stsb", rows), [])


Rows = list[dict[str, Any]]


def _pairs(samples: Iterable[Sample]) -> Rows:
    return [{"query": sample.query, "positive": sample.positive} for sample in samples]


def _graded(samples: Iterable[Sample]) -> Rows:
    return [{"query": s.query, "positive": s.positive, "label": s.score} for s in samples]


def _scored_negatives(samples: Iterable[Sample]) -> Rows:
    """sentence-transformers wants equally many negatives in all rows, and takes these in every step."""
    rows = []
    for s in samples:
        if len(s.negatives) >= NEGATIVES:
            negatives = {f"negative_{i}": text for i, text in enumerate(s.negatives[:NEGATIVES])}
            rows.append({"query": s.query, "positive": s.positive, **negatives, "label": s.scores[: NEGATIVES + 1]})
    return rows


def _with_vectors(samples: Iterable[Sample]) -> Rows:
    rows = _pairs(samples)
    vector_of = teacher_vectors(row[side] for row in rows for side in ("query", "positive"))
    return [row | {"label": [vector_of[row["query"]].tolist(), vector_of[row["positive"]].tolist()]} for row in rows]


def teacher_vectors(texts: Iterable[str]) -> dict[str, Any]:
    distinct = list(dict.fromkeys(texts))
    encoder = load_encoder(str(find_folder(TEACHER)), max_length=64)
    return dict(zip(distinct, np.asarray(encode(encoder, distinct)), strict=True))


def _kl(model: Any) -> Any:
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim

    return DistillKLDivLoss(model, pairwise_cos_sim, student_temperature=0.05, teacher_temperature=TEACHER_TEMPERATURE)


def _embed_distill(model: Any) -> Any:
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    return EmbedDistillLoss(model, projection_dim=384)


def _cosent(model: Any) -> Any:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return CoSENTLoss(model)


def _peer(
    lab: Lab,
    experiment: str,
    arm: str,
    seed: int,
    start: Path,
    shards: Path,
    rows_of: Callable[[Iterable[Sample]], Rows],
    make_loss: Callable[[Any], Any] | None,
    *options: str,
) -> None:
    """sentence-transformers' trainer from the same start with the same rows, steps, batch and rate."""
    if lab.scored(experiment, arm, seed):
        return
    output = lab.folder / "runs" / experiment / arm.replace(" ", "-") / f"seed-{seed}"
    if not output.exists():
        settings = ["experiment=small_pairs", *options, *lab.overrides, f"seed={seed}", f"shards={shards}"]
        config = compose_config("train", TrainConfig, [*settings, f"output={output}"])
        rows = {name: rows_of(reader) for name, reader in open_datasets(shards).items()}
        began = time.monotonic()
        train(start, rows, config, output, no_duplicates=make_loss is None, make_loss=make_loss)
        line = {"command": ["sentence-transformers", str(output)], "seconds": round(time.monotonic() - began, 1)}
        append_line(lab.folder / "commands.jsonl", line)
    lab.score(experiment, arm, seed, output)
