"""Scores of a model on local files: similarity, retrieval, negation."""

from jemb.evaluate.retrieval import RetrievalTask
from jemb.evaluate.run import Results, evaluate, score, table
from jemb.evaluate.tasks import Task, load_task
from jemb.evaluate.vectors import Encode

__all__ = ["Encode", "Results", "RetrievalTask", "Task", "evaluate", "load_task", "score", "table"]
