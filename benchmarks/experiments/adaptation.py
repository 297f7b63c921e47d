"""A good model and pairs of one's own: what does a short pair phase bring in their domain, and what is forgotten?

all-MiniLM-L6-v2 on four domains: shell commands, descriptions of packages, a medical FAQ, a dictionary of computing.
A tenth of the passages, and all queries that lead to them, are held out of training; those queries look for them among
all passages of the domain. Arms: the pairs as they are; the mean of the weights before and after that; filtered;
sentence-transformers' trainer with its own sampler on the pairs as they are; these with mined negatives, with and
without those for which none is found; these, and held by the vectors of the model before; filtered with a larger
`top_k`.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.experiments.lab import Lab, append_line, rows_of
from benchmarks.experiments.material import SIMILARITY
from benchmarks.experiments.peer_trainer import train
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.core.folders import whole_folder
from jemb.model import find_folder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DOMAINS = {
    "shell": {"nl2bash": 6_000},
    "packages": {"debian_package": 6_000},
    "medical": {"medquad": 4_000},
    "computing": {"computing_dictionary": 6_000},
}
"""Sets of pairs, and how many rows of each."""
ELSEWHERE = [*SIMILARITY, "retrieval:retrieval/stackfaq", "retrieval:retrieval/scifact"]
"""Tasks of no domain here: what is forgotten."""
HELD_OUT = 10
"""One passage in so many."""
CURATED = ["exact", "near_duplicates", "language", "consistency"]
MAX_LENGTH = 64
"""Tokens of a text, here for the time that it takes; the recipe says more."""
NUM_STEPS = 80
"""About one pass over the raw pairs, and the same for all arms."""
ARMS = {
    "raw": [],
    "curated": [],
    "ST on raw": [],
    "mined negatives": ["objective=triplets", "num_negatives=1"],
    "mined, others dropped": ["objective=triplets", "num_negatives=1"],
    "held": ["objective=teach", "objective_options.contrastive=1"],
    "curated, top_k=10": [],
}
"""Options beside the recipe. The arms are trained for each domain in turn, the first ones first."""
REPEATED = ["raw"]
"""Arms of all seeds; the others are trained with the first one alone, for the time they take."""
HALFWAY = "raw, halfway"
"""The mean of the weights before and after the first arm (Wortsman et al. 2022, WiSE-FT): scored, not trained."""


def run(lab: Lab, seed: int) -> None:
    for domain in DOMAINS:
        score(lab, domain, "before", find_folder(MODEL), 0)
    for arm in ARMS:
        for domain in DOMAINS:
            train_arm(lab, domain, arm, seed)


def train_arm(lab: Lab, domain: str, arm: str, seed: int) -> None:
    model, runs = find_folder(MODEL), lab.folder / "runs" / f"adaptation-{domain}"
    wanted = [arm, HALFWAY] if arm == "raw" else [arm]
    if all(lab.scored(f"adaptation {domain}", name, seed if arm in REPEATED else None) for name in wanted):
        return
    recipe = [
        "experiment=adapt",
        f"max_length={MAX_LENGTH}",
        f"max_steps={NUM_STEPS}",
        f"warmup_steps={NUM_STEPS // 10}",
    ]
    if arm == "ST on raw":
        run = runs / "ST" / f"seed-{seed}"
        if not run.exists():
            raw = prepare(lab, domain, "raw")
            settings = [*recipe, f"init={model}", *lab.overrides, f"seed={seed}", f"shards={raw}", f"output={run}"]
            began = time.monotonic()
            train(model, rows_of(raw), compose_config("train", TrainConfig, settings), run, no_duplicates=True)
            line = {"command": ["sentence-transformers", str(run)], "seconds": round(time.monotonic() - began, 1)}
            append_line(lab.folder / "commands.jsonl", line)
    else:
        shards = prepare(lab, domain, arm)
        run = lab.train(runs.name, plain(arm), seed, shards, *recipe, f"init={model}", *ARMS[arm])
    score(lab, domain, arm, run, seed)
    if arm == "raw":
        merged = runs / "halfway" / f"seed-{seed}"
        lab.jemb("merge", f"runs=[{model},{run}]", "weights=[0.5,0.5]", f"output={merged}")
        score(lab, domain, HALFWAY, merged, seed)


def score(lab: Lab, domain: str, arm: str, model: Path, seed: int) -> None:
    tasks = [f"retrieval:{test_set(lab, domain).absolute()}", *ELSEWHERE]
    lab.score(f"adaptation {domain}", arm, seed, model, tasks, MAX_LENGTH)


def prepare(lab: Lab, domain: str, arm: str) -> Path:
    def training() -> dict[str, list[Any]]:
        every = pairs(lab, domain)
        asked = {row["query"] for rows in every.values() for row in rows if held_out(row["positive"])}
        return {
            name: [row for row in rows if row["query"] not in asked and not held_out(row["positive"])]
            for name, rows in every.items()
        }

    raw, cache = lab.raw(f"adaptation-{domain}", training), f"cache={lab.folder / 'vectors'}"
    name = f"adaptation-{domain}-{plain(arm)}"
    if arm == "raw":
        return lab.prepare(name, raw, ["exact"])
    if arm == "held":
        options = [f"teacher.{cache}", f"teacher.model={find_folder(MODEL)}", f"teacher.max_length={MAX_LENGTH}"]
        return lab.prepare(name, raw, ["exact", "teacher"], *options)
    if arm.startswith("mined"):
        options = [f"mine.{cache}", f"mine.max_length={MAX_LENGTH}"]
        options += ["mine.without_negatives=drop"] if arm == "mined, others dropped" else []
        return lab.prepare(name, raw, ["exact", "mine"], *options)
    options = [f"consistency.{cache}", f"consistency.max_length={MAX_LENGTH}"]
    if arm == "curated, top_k=10":
        options.append("consistency.top_k=10")
    return lab.prepare(name, raw, CURATED, *options)


def plain(arm: str) -> str:
    """Its name in paths and options."""
    return arm.replace(" ", "-").replace(",", "").replace("=", "-")


def pairs(lab: Lab, domain: str) -> dict[str, list[Any]]:
    return {name: lab.material.rows(f"pairs/{name}", limit) for name, limit in DOMAINS[domain].items()}


def held_out(passage: str) -> bool:
    """By the passage alone, white space and case apart, so that no row of the same document is trained on."""
    return hashlib.sha256(" ".join(passage.lower().split()).encode()).digest()[0] % HELD_OUT == 0


def test_set(lab: Lab, domain: str) -> Path:
    """BEIR's form: all passages of the domain, and the queries of those held out."""
    folder = lab.folder / "raw" / f"adaptation-{domain}-test" / domain
    if folder.exists():
        return folder
    rows = [row for some in pairs(lab, domain).values() for row in some]
    passages = {text: f"p{number}" for number, text in enumerate(dict.fromkeys(row["positive"] for row in rows))}
    wanted: dict[str, set[str]] = {}
    for row in rows:
        if held_out(row["positive"]):
            wanted.setdefault(row["query"], set()).add(passages[row["positive"]])
    with whole_folder(folder) as new:
        lines = [json.dumps({"_id": name, "title": "", "text": text}) for text, name in passages.items()]
        (new / "corpus.jsonl").write_text("\n".join(lines) + "\n")
        lines = [json.dumps({"_id": f"q{number}", "text": text}) for number, text in enumerate(wanted)]
        (new / "queries.jsonl").write_text("\n".join(lines) + "\n")
        lines = [f"q{number}\t{name}\t1" for number, names in enumerate(wanted.values()) for name in sorted(names)]
        (new / "qrels.dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder
