"""Raw text pairs to clean, shuffled shards: sources → pieces of rows → stages, one a file → shards.

The filters of arXiv 2307.11224 in its order, with those that came after it between; `engine/run.py` puts them together.
"""

import sys

from jemb import Command
from jemb.prepare.engine.run import prepare
from jemb.prepare.engine.table import Dropped, Rows, Table, Verdict
from jemb.prepare.registry import Encode, Score, StageInputs, Statistic, Tools, stage
from jemb.prepare.report.summary import drop_reasons, funnel, summary_table

__all__ = [
    "Dropped",
    "Encode",
    "Rows",
    "Score",
    "StageInputs",
    "Statistic",
    "Table",
    "Tools",
    "Verdict",
    "drop_reasons",
    "funnel",
    "prepare",
    "stage",
    "summary_table",
]

sys.modules[__name__].__class__ = Command  # `jemb.prepare(config)` is the command
