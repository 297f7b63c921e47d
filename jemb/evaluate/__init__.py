"""Scores of models on local files and on mteb's tasks: similarity, retrieval, reranking, negation."""

import sys

from jemb import Command
from jemb.evaluate.comparison import Comparison, Results, table
from jemb.evaluate.measure import Correlation, Mean, Measured, Score, Task
from jemb.evaluate.ranking import RetrievalTask
from jemb.evaluate.report import add_scores
from jemb.evaluate.run import evaluate, score
from jemb.evaluate.tasks.load import load_task, load_tasks, task
from jemb.evaluate.tasks.rows import read_rows
from jemb.evaluate.vectors import Encode, encode_distinct, pair_cosines

__all__ = [
    "Comparison",
    "Correlation",
    "Encode",
    "Mean",
    "Measured",
    "Results",
    "RetrievalTask",
    "Score",
    "Task",
    "add_scores",
    "encode_distinct",
    "evaluate",
    "load_task",
    "load_tasks",
    "pair_cosines",
    "read_rows",
    "score",
    "table",
    "task",
]

sys.modules[__name__].__class__ = Command  # `jemb.evaluate(config)` is the command
