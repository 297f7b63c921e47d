"""`jemb evaluate` in several processes: the first evaluates, and all encode for it.

Before: torchrun or srun has started them, and they have joined. After: `run.py` in the first, while `shared_encoding`
deals the texts to all. What stays the first one's alone: a task's vectors, float32 [N, D], its search and its scores.
"""

from __future__ import annotations

from dataclasses import replace

from jemb.config import EvaluateConfig
from jemb.distributed import Encode, shared_encoding
from jemb.evaluate.comparison import Comparison
from jemb.evaluate.models import load_text_encoder
from jemb.evaluate.run import evaluate


def evaluate_together(config: EvaluateConfig) -> Comparison | None:
    """`evaluate` in the first process, None in the others once it is done; what it raises is raised in all."""

    def load(name: str) -> Encode:
        return replace(load_text_encoder(name, config), name=None)  # there is one bar for all processes

    with shared_encoding(load) as make:
        return evaluate(config, make) if make else None
