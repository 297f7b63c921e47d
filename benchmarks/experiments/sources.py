"""Sampling: one data set a batch against all in one, and what data sets are drawn by.

All arms see the same pairs at equal steps. `mixed` has them as a single data set, so that a batch holds rows of all.
The others differ in the weights s_i of P(i) = |D_i| s_i / sum_j |D_j| s_j.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.experiments.lab import Lab, rows_of, sizes
from benchmarks.experiments.material import Row

QUALITY = {
    "quora_duplicates": 4,
    "multi30k_captions": 4,
    "nli_entailment": 4,
    "squad_question_sentence": 4,
    "asset_simplification": 2,
    "disfl_qa": 2,
    "debian_package": 2,
    "tldr_task_command": 1,
    "twitter_url_paraphrase": 0.5,
    "wordnet_word_gloss": 0.25,
    "opentrivia_qa": 0.25,
}
"""Set by hand after a look at the rows, before any score: sentences that mean the same high, single words low."""
LIMIT = 15_000


def run(lab: Lab, seed: int) -> None:
    single, mixed = prepare(lab)
    arms: dict[str, tuple[Path, list[str]]] = {"single": (single, []), "mixed": (mixed, [])}
    arms["quality"] = (single, [f"weights.{name}={QUALITY.get(name, 1)}" for name in sizes(single)])
    arms["uniform"] = (single, [f"weights.{name}={1000 / size:.6f}" for name, size in sizes(single).items()])
    for arm, (shards, options) in arms.items():
        if not lab.scored("sources", arm, seed):
            lab.score("sources", arm, seed, lab.train("sources", arm, seed, shards, *options))


def prepare(lab: Lab) -> tuple[Path, Path]:
    """(shards of each data set, shards of the same rows as one)."""
    raw = lab.raw("sources", lambda: clean(lab))
    single = lab.prepare("sources", raw, ["exact", "near_duplicates", "language"])
    joined = lab.raw("mixed", lambda: {"all": [row for rows in rows_of(single).values() for row in rows]})
    return single, lab.prepare("mixed", joined, [])


def clean(lab: Lab) -> Mapping[str, list[Row]]:
    names = lab.material.chosen(list(QUALITY))
    return {name: lab.material.rows(f"pairs/{name}", LIMIT) for name in names}
