"""Weights: what `jemb weigh` finds of all sets of pairs, against weights by size, by hand and all alike.

The model that it weighs at has 200 steps on all sets alike, from the start model of the seed, as all arms have. Dev is
held-out rows of three sets, whose other rows are trained on: duplicate questions, and questions with the sentence that
answers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from benchmarks.experiments.lab import Lab, sizes
from benchmarks.experiments.material import Row
from benchmarks.experiments.sources import QUALITY
from jemb.core.files import read_yaml

LIMIT = 2_000
"""Pairs of each set."""
DEV = {"quora_duplicates": 512, "squad_question_sentence": 512, "wikiqa_answer": 256}
"""Rows held out for dev, which are never trained on."""
BATCH_SIZE = 64
"""As in the recipe."""


def run(lab: Lab, seed: int) -> None:
    shards, dev = prepare(lab)
    number = sizes(shards)
    uniform = [f"weights.{name}={1000 / size:.6f}" for name, size in number.items()]
    proxy = lab.train("weigh", "proxy", seed, shards, *uniform)
    found = lab.folder / "weighed" / f"weights-{seed}.yaml"
    found.parent.mkdir(parents=True, exist_ok=True)
    files = ",".join(str(path) for path in sorted(dev.glob("*.jsonl")))
    lab.jemb(
        "weigh",
        f"shards={shards}",
        f"model={proxy}",
        f"dev=[{files}]",
        f"batch_size={BATCH_SIZE}",
        f"seed={seed}",
        f"output={found}",
    )
    weighed = read_yaml(found)["weights"]
    half = sorted(weighed, key=lambda name: -weighed[name])[: len(weighed) // 2]
    arms = {
        "by size": [],
        "by hand": [f"weights.{name}={QUALITY.get(name, 1)}" for name in number],
        "weighed": [f"weights.{name}={weight}" for name, weight in weighed.items()],
        "better half": [f"weights.{name}={int(name in half)}" for name in number],
    }
    lab.score("weigh", "all alike", seed, proxy)  # the same run
    for arm, options in arms.items():
        if not lab.scored("weigh", arm, seed):
            lab.score("weigh", arm, seed, lab.train("weigh", arm.replace(" ", "-"), seed, shards, *options))


def prepare(lab: Lab) -> tuple[Path, Path]:
    """(shards of all sets without the rows of dev, folder with a file of dev rows for each of those sets)."""
    names = [name.removeprefix("pairs/") for name in lab.material.names("pairs/*")]

    @cache
    def parts() -> tuple[Mapping[str, list[Row]], Mapping[str, list[Row]]]:
        every = {name: lab.material.rows(f"pairs/{name}") for name in names}
        dev = {name: every[name][: min(DEV[name], len(every[name]) // 3)] for name in names if name in DEV}
        texts = {text for rows in dev.values() for row in rows for text in row.values()}
        train = {name: [row for row in rows if texts.isdisjoint(row.values())][:LIMIT] for name, rows in every.items()}
        return train, dev

    raw = lab.raw("weigh", lambda: parts()[0])
    dev = lab.raw("weigh-dev", lambda: parts()[1])
    return lab.prepare("weigh", raw, ["exact", "near_duplicates", "language"]), dev
