"""Of rows that are nearly the same text, keep one (arXiv 2402.17016 adds it to the paper's filters).

The default, 16 bands of 8 with the exact check, finds 0.998 of the true pairs at J >= 0.8 and removes no others, where
the 9 bands of 13 that datasketch computes for that threshold find 0.856. The work is done in `near/`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jemb.config import DuplicateSide, Positive, options
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table
from jemb.prepare.registry import StageInputs, Statistic, stage


@options
class NearDuplicatesConfig:
    """MinHash near-duplicate removal within a data set."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity from which two samples are near duplicates; (0, 1]."""
    num_perm: Annotated[int, Field(ge=16, le=1024)] = 128
    """MinHash permutations; 16 to 1024, a multiple of 8."""
    shingle: Literal["char", "word"] = "char"
    """What a shingle is made of: characters (suits texts under about 50 words) or words."""
    ngram: Positive = 5
    """Characters or words in a shingle; a letter of a script without spaces (Chinese, Japanese, Thai, …) is a word. A
    text shorter than this is one shingle."""
    side: DuplicateSide = "both"
    """What must reach the threshold: the query, the positive, each of both, or the text of both joined. (Joined, a long
    answer outweighs its query, and a new question to the same answer counts as a duplicate.)"""

    def __post_init__(self) -> None:
        if self.num_perm % 8:
            raise ValueError(f"near_duplicates.num_perm must be a multiple of 8, got {self.num_perm}")


@stage(
    "near_duplicates",
    reasons={"near_duplicate": "nearly the same text as a row that stays"},
    options=NearDuplicatesConfig,
    statistics={
        "equal": Statistic("Rows with the same words as another"),
        "candidates": Statistic("Rows in a bucket with others"),
        "compared": Statistic("Pairs compared"),
        "similarity": Statistic("Pairs of near duplicates, by similarity", "pairs", "Jaccard similarity", "threshold"),
        "clusters": Statistic("Clusters of near duplicates, by size", "clusters"),
    },
    after="exact",
    default=True,
    whole=True,
    advice="many rows come from one template; near_duplicates.side or a higher threshold keeps more of them",
)
def near_duplicates(table: Table, job: Job, options: NearDuplicatesConfig, inputs: StageInputs) -> Dropped:
    """Keep the lowest id of each group of rows connected by Jaccard >= threshold. Reason: `near_duplicate`.

    Case, white space and punctuation do not matter. The result can miss a pair close to the threshold (never one of
    equal words), and `seed` then decides which. Statistics: `clusters` (groups by size), `equal` (dropped for equal
    words), `candidates` (rows looked at, band by band), `compared` (pairs), `similarity` of the pairs that connect.
    """
    from jemb.prepare.near.join import join

    return join(table, job, options, inputs.seed)
