"""The whole recipe from random weights, for a GPU: pairs as they are, curated, a fifth of these; then triplets.

A model of all-MiniLM-L6-v2's shape, all sets of pairs that are there, the six of `ablation` with noise of known shares.
A static model judges consistency, so that it costs seconds. What is prepared on another machine is not prepared again:
carry OUTPUT along with the data, and give the same paths.

    python -m benchmarks.experiments whole --data FOLDER --seeds 0 --train device=cuda precision=bf16

What `--train` says holds for the pair phases and for the triplets alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments import ablation, auxiliary, negation
from benchmarks.experiments.lab import Lab, rows_of
from benchmarks.experiments.material import DOCSTRINGS, RETRIEVAL, SIMILARITY
from jemb.core.folders import whole_folder
from jemb.model import find_folder

MAX_LENGTH = 64
FILTERS: dict[str, Sequence[str]] = {
    "raw": ["exact"],
    "curated": ["exact", "near_duplicates", "language", "consistency"],
}
PAIRS = ["global_batch_size=1024", "learning_rate=5e-4", "max_steps=600", "warmup_steps=60"]
TRIPLETS = ["global_batch_size=256", "max_steps=200", "warmup_steps=20"]
"""Beside the recipes. Not tuned: no GPU has run them yet."""
SHARE = 5
"""One curated pair in so many is left for the third arm."""
TASKS = [f"negation:{name}.jsonl.gz" for name in [*negation.OTHER_ORIGIN, *negation.SAME_ORIGIN]]
TASKS += [*SIMILARITY, *RETRIEVAL, *DOCSTRINGS]


def run(lab: Lab, seed: int) -> None:
    start = make_start(lab, seed)
    recipe = [f"init={start}", f"max_length={MAX_LENGTH}", *PAIRS]
    runs = {}
    lab.score("whole", "untrained", seed, start, TASKS, MAX_LENGTH)
    for arm, shards in prepare(lab).items():
        runs[arm] = lab.train("whole", arm.replace(" ", "-"), seed, shards, *recipe)
        lab.score("whole", arm, seed, runs[arm], TASKS, MAX_LENGTH)
    triplets = negation.prepare(lab)
    recipe = ["experiment=small_triplets", f"init={runs['curated']}", f"max_length={MAX_LENGTH}", *TRIPLETS]
    run = lab.train("whole", "triplets", seed, triplets, *recipe)
    lab.score("whole", "curated, then triplets", seed, run, TASKS, MAX_LENGTH)


def prepare(lab: Lab) -> dict[str, Path]:
    """The shards of each arm."""
    raw = lab.raw("whole", lambda: collect(lab))
    options = [f"consistency.encoder={auxiliary.folder_of(lab, 'static')}", f"consistency.max_length={MAX_LENGTH}"]
    made = {
        arm: lab.prepare(f"whole-{arm}", raw, stages, *(options if "consistency" in stages else []))
        for arm, stages in FILTERS.items()
    }

    def fewer() -> Mapping[str, list[Any]]:  # the raw rows are in random order, and so are those that are left
        return {name: rows[: -(-len(rows) // SHARE)] for name, rows in rows_of(made["curated"]).items()}

    return {**made, "a fifth": lab.prepare("whole-fifth", lab.raw("whole-fifth", fewer), [])}


def collect(lab: Lab) -> Mapping[str, list[Any]]:
    names = [name.removeprefix("pairs/") for name in lab.material.names("pairs/*")]
    return {name: lab.material.rows(f"pairs/{name}") for name in names} | dict(ablation.dirty(lab.material))


def make_start(lab: Lab, seed: int) -> Path:
    """The shape and the tokenizer of the model, with random weights. MINILM names its folder where the package is not
    installed; its own weights are not needed."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = lab.folder / "models" / f"whole-{seed}"
    if not folder.exists():
        place = os.environ.get("MINILM") or find_folder(auxiliary.MODEL)
        torch.manual_seed(seed)
        with whole_folder(folder) as new:
            AutoModel.from_config(AutoConfig.from_pretrained(place)).save_pretrained(new)
            AutoTokenizer.from_pretrained(place).save_pretrained(new)
    return folder
