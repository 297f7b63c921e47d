"""Raw text pairs to clean, shuffled shards: sources → pieces of rows → stages, one a file → shards.

The filters of arXiv 2307.11224 in its order, with those that came after it between; `run.py` puts them together.
"""

import sys

from jemb import Command
from jemb.prepare.run import prepare
from jemb.prepare.summary import drop_reasons, funnel, summary_table
from jemb.prepare.tools import Encode, Score, Tools

__all__ = ["Encode", "Score", "Tools", "drop_reasons", "funnel", "prepare", "summary_table"]

sys.modules[__name__].__class__ = Command  # `jemb.prepare(config)` is the command
