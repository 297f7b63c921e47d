"""Against sentence-transformers: same start model, pairs, steps, batch, rate, temperature; scored alike.

equal       all pairs as one data set, nothing hidden, loss averaged over both directions: the two should agree
on raw      the ablation's raw pairs as they are, with what sentence-transformers recommends for them
on clean    the same after jemb's filters, so that only masking and the drawing of batches differ
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.experiments import ablation, sources
from benchmarks.experiments.lab import Lab, append_line, rows_of
from benchmarks.experiments.peer_trainer import train
from jemb.app.compose import compose_config
from jemb.config import TrainConfig

EQUAL = [
    "loss_weights.query_to_positive=0.5",
    "loss_weights.positive_to_query=0.5",
    "mask_equal_texts=false",
]
"""sentence-transformers has the mean of the two directions, jemb as the paper their sum; it hides nothing."""


def run(lab: Lab, seed: int) -> None:
    _, mixed = sources.prepare(lab)
    if not lab.scored("peer", "jemb, equal", seed):
        lab.score("peer", "jemb, equal", seed, lab.train("peer", "jemb-equal", seed, mixed, *EQUAL))
    dirty = ablation.prepare(lab)
    with_st(lab, "ST, equal", seed, mixed, no_duplicates=False)
    with_st(lab, "ST on raw", seed, dirty["raw"], no_duplicates=True)
    with_st(lab, "ST on clean", seed, dirty["consistency"], no_duplicates=True)


def with_st(lab: Lab, arm: str, seed: int, shards: Path, *, no_duplicates: bool) -> None:
    if lab.scored("peer", arm, seed):
        return
    start, output = lab.start_model(seed), lab.folder / "runs" / "peer" / arm.replace(",", "").replace(" ", "-")
    output = output / f"seed-{seed}"
    if not output.exists():
        settings = ["experiment=small_pairs", *lab.overrides, f"seed={seed}", f"shards={shards}", f"output={output}"]
        config = compose_config("train", TrainConfig, settings)
        began = time.monotonic()
        train(start, rows_of(shards), config, output, no_duplicates=no_duplicates)
        line = {"command": ["sentence-transformers", str(output)], "seconds": round(time.monotonic() - began, 1)}
        append_line(lab.folder / "commands.jsonl", line)
    lab.score("peer", arm, seed, output)
