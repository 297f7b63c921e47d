"""Training: configuration to objects, the Lightning module, checkpoints, the run's records."""

import sys

from jemb import Command
from jemb.train.checkpoints import Checkpoints
from jemb.train.dry_run import dry_run
from jemb.train.evaluation import EvaluateInLoop, evaluate_in_loop
from jemb.train.logs.run_log import RunLog
from jemb.train.module import EmbeddingModule
from jemb.train.preemption import CopyToStorage, StopOnSignal
from jemb.train.train import train

__all__ = [
    "Checkpoints",
    "CopyToStorage",
    "EmbeddingModule",
    "EvaluateInLoop",
    "RunLog",
    "StopOnSignal",
    "dry_run",
    "evaluate_in_loop",
    "train",
]

sys.modules[__name__].__class__ = Command  # `jemb.train(config)` is the command
