"""Filters: four arms at equal steps, and few clean pairs against many raw ones.

Raw data are real pairs of several data sets, each with noise of known kinds and shares (`noise.py`). The arms differ in
the stages of `jemb prepare` and in nothing else: same raw files, start model, recipe, seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.experiments.lab import Lab, read_lines, sizes
from benchmarks.experiments.material import Material, Row
from benchmarks.experiments.noise import make_raw
from jemb.shards import open_datasets

SOURCES = {
    "quora_duplicates": "noise/stsb_*",
    "multi30k_captions": "noise/multi30k_*",
    "tldr_task_command": "noise/tldr_task_command_*",
    "debian_package": "noise/debian_package_*",
    "squad_question_sentence": "noise/stsb_*",
    "twitter_url_paraphrase": "noise/stsb_*",
}
"""Sets of pairs, and where their pairs in other languages come from."""
UNRELATED = {"twitter_url_paraphrase": "noise/twitter_url_labelled"}
"""Pairs with label 0 stand for the mismatched ones."""
RAW_ROWS = 8000
"""Of each data set."""
FILTERS = {
    "raw": [],
    "deduplicated": ["exact", "near_duplicates"],
    "language": ["exact", "near_duplicates", "language"],
    "consistency": ["exact", "near_duplicates", "language", "consistency"],
}
FEW = "few raw"
"""A fifth arm: as many raw rows, drawn at random, as the last filter leaves."""


def run(lab: Lab, seed: int) -> None:
    lab.score("ablation", "untrained", seed, lab.start_model(seed))
    for arm, shards in prepare(lab).items():
        if not lab.scored("ablation", arm, seed):
            lab.score("ablation", arm, seed, lab.train("ablation", arm, seed, shards))


def prepare(lab: Lab) -> dict[str, Path]:
    """The shards of each arm."""
    raw = lab.raw("ablation", lambda: dirty(lab.material))
    options = ["consistency.max_length=64", "keep_dropped=true"]
    shards = {arm: lab.prepare(f"ablation-{arm}", raw, stages, *options) for arm, stages in FILTERS.items()}
    count_kinds(lab, raw, shards)
    kept = sizes(shards["consistency"])
    few = lab.raw("few-raw", lambda: {name: read_lines(raw / f"{name}.jsonl")[:n] for name, n in kept.items()})
    return {**shards, FEW: lab.prepare("few-raw", few, [])}


def dirty(material: Material) -> Mapping[str, list[Row]]:
    """The raw data sets. Foreign rows that several sets share are dealt out, so that none comes twice."""
    names = material.chosen(list(SOURCES))
    pools = {pattern: _pool(material, pattern) for pattern in set(SOURCES.values())}
    users = Counter(SOURCES.get(name, "") for name in names)
    made: dict[str, list[Row]] = {}
    turn: Counter[str] = Counter()
    for name in names:
        pattern = SOURCES.get(name, "")
        foreign = pools.get(pattern, [])[turn[pattern] :: users[pattern]]
        turn[pattern] += 1
        labelled = material.rows(UNRELATED[name]) if name in UNRELATED and material.names(UNRELATED[name]) else []
        unrelated = [row for row in labelled if not int(row["label"])]
        rows = material.rows(f"pairs/{name}")
        made[name] = make_raw(rows, foreign, unrelated, size=RAW_ROWS, draw=random.Random(name))
    return made


def _pool(material: Material, pattern: str) -> list[Row]:
    """Rows of all sets of a pattern, equally many of each as long as they last."""
    several = [material.rows(name, RAW_ROWS // 2) for name in material.names(pattern)]
    longest = max(map(len, several), default=0)
    return [rows[i] for i in range(longest) for rows in several if i < len(rows)]


def count_kinds(lab: Lab, raw: Path, shards: Mapping[str, Path]) -> None:
    """How many rows of each kind of noise each arm still has, as results of an experiment `kinds`."""
    if lab.scored("kinds", "before", 0):
        return
    counts: dict[str, Counter[str]] = {}
    for arm, folder in shards.items():
        readers = open_datasets(folder).values()
        counts[arm] = Counter(str(sample.extra["kind"]) for reader in readers for sample in reader)
    counts["before"] = Counter(row["kind"] for file in sorted(raw.glob("*.jsonl")) for row in read_lines(file))
    for arm, count in counts.items():
        lab.note({"experiment": "kinds", "arm": arm, "seed": 0, "scores": dict(sorted(count.items()))})
