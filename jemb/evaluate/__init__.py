"""Scores of models on local files and on mteb's tasks: similarity, retrieval, reranking, negation."""

import sys

from jemb import Command
from jemb.evaluate.comparison import Comparison, Results, table
from jemb.evaluate.measure import Measured, Score, Task
from jemb.evaluate.ranking import RetrievalTask
from jemb.evaluate.report import add_scores
from jemb.evaluate.run import evaluate, score
from jemb.evaluate.tasks import load_task, load_tasks
from jemb.evaluate.vectors import Encode

__all__ = [
    "Comparison",
    "Encode",
    "Measured",
    "Results",
    "RetrievalTask",
    "Score",
    "Task",
    "add_scores",
    "evaluate",
    "load_task",
    "load_tasks",
    "score",
    "table",
]

sys.modules[__name__].__class__ = Command  # `jemb.evaluate(config)` is the command
