"""Gathered against local negatives on 2 and 4 processes: same batches, same steps, fewer negatives a query.

With gathering the number of processes does not matter: the arm `single` of `sources` stands for all numbers, and a run
of the first seed on two processes shows it.
"""

from __future__ import annotations

from benchmarks.experiments import sources
from benchmarks.experiments.lab import Lab

ARMS = {"gathered on 2": (2, False), "local on 2": (2, True), "local on 4": (4, True)}


def run(lab: Lab, seed: int) -> None:
    shards, _ = sources.prepare(lab)
    for arm, (processes, local) in ARMS.items():
        if (local or seed == 0) and not lab.scored("negatives", arm, seed):
            name = arm.replace(" ", "-")
            model = lab.train("negatives", name, seed, shards, processes=processes, local=local)
            lab.score("negatives", arm, seed, model)
