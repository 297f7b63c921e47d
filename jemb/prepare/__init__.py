"""Raw text pairs to clean, shuffled shards: sources → exact → near_duplicates → language → consistency → shards.

The filters of arXiv 2307.11224 in its order, one a file; `run.py` owns files, workers, totals and resuming.
"""

from jemb.prepare.consistency import Encode
from jemb.prepare.run import prepare
from jemb.prepare.summary import drop_reasons, funnel, summary_table

__all__ = ["Encode", "drop_reasons", "funnel", "prepare", "summary_table"]
