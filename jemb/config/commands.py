"""Options of `jemb weigh`, `tokenize`, `evaluate`, `merge`, `export`, `inspect`, `new` and `demo`."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated

from pydantic import Field

from jemb.config.parse import options
from jemb.config.train import PromptsConfig
from jemb.config.types import (
    Alone,
    Device,
    MaxLength,
    Positive,
    PositiveReal,
    Quantization,
    Seed,
    Strings,
    TrustCode,
    Widths,
)


@options
class WeighConfig:
    """Find out which data sets help a model on held-out pairs, which harm, and with which weights to train."""

    shards: str
    """Output folder of `jemb prepare` (every data set in it), or the folder of one data set, or its URL."""
    model: str
    """The model to weigh at: a run folder of `jemb train`, an exported or sentence-transformers folder, or a Hugging
    Face name. Best one that has learned a little of all data sets; one that knows the rows by heart shows nothing."""
    dev: Strings
    """Held-out rows like those the model is for, which are not trained on: a file with `query`, `positive` and perhaps
    `negatives`, as for `jemb prepare`, or several as `dev=[a.jsonl,b.csv]`, which count alike."""
    output: str
    """YAML file with the weights: as DIR/experiment/NAME.yaml for `jemb train --config-dir=DIR experiment=NAME`."""
    batches: Annotated[int, Field(ge=2)] = 8
    """Batches of each data set and of each dev file, at least 2: fewer of a data set that has no more rows, and of the
    dev files as many as the smallest has."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Samples in a batch, which are contrasted with each other."""
    temperature: PositiveReal = 0.05
    """tau of the contrastive losses, as the run will have it."""
    max_length: MaxLength | None = None
    """Tokens a text is cut at, as the run will have it; null: the model's own limit."""
    seed: Seed = 0
    """Seed of the batches."""
    trust_remote_code: TrustCode = False
    device: Device = "auto"


@options
class TokenizeConfig:
    """Tokenise shards once and store the token ids, for runs that train on them: `jemb train tokens=DIR`."""

    shards: str
    """Output folder of `jemb prepare` (every data set in it), or the folder of one data set, or its URL."""
    model: str
    """Whose tokenizer: a run folder of `jemb train`, an exported or sentence-transformers folder, or a Hugging Face
    name; what the run will have as `init` or `model.path`."""
    output: str
    """Folder to write, 2 bytes for each token and about 40 for each sample. The same command on the same folder
    continues where it stopped."""
    max_length: MaxLength | None = None
    """Tokens a text is cut at, as the run will have it; null: the model's own limit."""
    trust_remote_code: TrustCode = False
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    """Texts put before the sides, as the run will have them."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Shards that are worked on at once; 0: one per core."""


@options
class EvaluateConfig:
    """Score a model, or several side by side, on local files and on mteb's tasks."""

    model: Strings
    """A run folder of `jemb train`, an exported or sentence-transformers folder, a Hugging Face name, or `bm25`
    (retrieval and reranking only). Several as `model=[runs/a,runs/b,bm25]`: the others are compared with the first."""
    tasks: Strings
    """`sts:FILE` (fields sentence1, sentence2, score), `retrieval:BEIR_DIR` (corpus.jsonl: _id, title, text;
    queries.jsonl: _id, text; qrels/test.tsv: query id, passage id, relevance; or one of several judgements as
    `retrieval:BEIR_DIR/qrels/dev.tsv`), `reranking:FILE` (query, and positive and negative, lists of texts),
    `negation:FILE` (anchor, entailment, negative; or query, positive, negative), and by mteb `mteb:TASK`,
    `mteb:TASK:SUBSET` or a benchmark, in quotes where its name has a comma: 'tasks=["mteb:MTEB(eng, v2)",sts:FILE]'.
    Your own: `KIND:FILE` of one registered with `jemb.evaluate.task`, or `PACKAGE.MODULE.FUNCTION:FILE`.
    Files are `.jsonl`, `.tsv` or `.csv` (each also `.gz`, `.zst`) or `.parquet`; in a BEIR folder
    `.jsonl` or `.jsonl.gz`."""
    output: str
    """JSON file: for each task its metrics in percent; for several models that, intervals and differences by model.
    Beside it `report.html`, and a folder of its name with a JSON file for each model and task that mteb reads."""
    widths: Widths = field(default_factory=list)
    """Score also the first so many numbers of each vector, as `METRIC@WIDTH`: `widths=[64,128]`. For models trained
    with `matryoshka_widths`."""
    quantization: Annotated[list[Quantization], Alone] = field(default_factory=list)
    """Score also the vectors as sentence-transformers' `quantize_embeddings` makes them small, as `METRIC@int8` and
    `METRIC@binary`: `quantization=[int8,binary]`. int8: a byte a number, between the least and the greatest of that
    number over the task's corpus (over all its texts, where it has no corpus), compared by cosine. binary: a bit a
    number, its sign, compared by Hamming distance. With `widths` also of each width, `METRIC@WIDTH@int8`. Tasks of mteb
    have full precision alone."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap samples behind each confidence interval; 0: no intervals."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of the intervals."""
    seed: Seed = 0
    """Seed of the bootstrap samples."""
    batch_size: Positive = 64
    """Texts encoded at once."""
    max_length: MaxLength | None = None
    """Tokens a text is cut at; null: the model's own, as in its published scores."""
    trust_remote_code: TrustCode = False
    device: Device = "auto"


@options
class MergeConfig:
    """Average the weights of several models of one kind, or of a run's checkpoints, into one model folder."""

    runs: Strings
    """Run folders of `jemb train`, exported or sentence-transformers folders, or Hugging Face names, as
    `runs=[runs/a,runs/b]`. They may differ in their weights alone; a mean of them is of use where they were trained
    from one model. Of an unfinished run its last checkpoint."""
    output: str
    """Folder to write, for sentence-transformers, `jemb train init=`, `jemb evaluate` and `jemb export run=`; must not
    exist or be empty."""
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = field(default_factory=list)
    """What each model counts, in the order of `runs`: divided by their sum. []: all alike."""
    last_checkpoints: Annotated[int, Field(ge=2)] | None = None
    """Merge the newest so many checkpoints of the one run in `runs`, in the place of its model; `weights` then go from
    the oldest to the newest. A run keeps as many as its `keep_checkpoints` says."""
    tasks: Strings = field(default_factory=list)
    """Choose the weights: evaluate equal weights and all multiples of `step` with sum 1 on these tasks, named as for
    `jemb evaluate`, and take those with the greatest mean of the tasks' main metrics. Data to choose by, no test data.
    All models are in memory at once."""
    step: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Step of the weights that `tasks` choose from, 1 divided by a whole number: 0.25 tries 5 for two models, 15 for
    three."""
    license: str | None = None
    """Licence of the merged model for its card, as for `jemb export`."""
    trust_remote_code: TrustCode = False
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.weights and self.tasks:
            raise ValueError("weights and tasks are both given; wanted weights, or tasks that choose them")


@options
class ExportConfig:
    """Write a trained model as a sentence-transformers folder, and check that it gives the same vectors."""

    run: str
    """Run folder of `jemb train`, or a folder that `jemb merge` or `jemb export` wrote."""
    output: str
    """Folder to write; must not exist or be empty."""
    onnx: bool = False
    """Also write `onnx/model.onnx` for onnxruntime, checked like the rest. Needs `pip install 'jemb[onnx]'`."""
    adapter: bool = False
    """Write the matrices of a run with `model.lora.rank` alone, for sentence-transformers with PEFT, beside the name of
    the model they belong to; else they are added to the weights."""
    trust_remote_code: TrustCode = False
    truncate_dim: Positive | None = None
    """Whoever loads the folder gets the first so many numbers of each vector; null: all that the run's model gives. For
    models trained with `matryoshka_widths`."""
    prompts: dict[str, str] = field(default_factory=dict)
    """A text that sentence-transformers puts before inputs of a kind, `prompts.query='query: '` (`encode_query` takes
    `query`, `encode_document` takes `document`), beside those the run was trained with, which are always there. For
    models whose training texts began so by themselves."""
    license: str | None = None
    """Licence of the model for its card, as the Hugging Face Hub names it: `apache-2.0`, `cc-by-4.0`, …"""
    push_to_hub: str | None = None
    """Also upload the folder to this repository of the Hugging Face Hub, `USER/NAME`, made where there is none."""
    private: bool = False
    """Make that repository a private one; one that is there stays as it is."""

    def __post_init__(self) -> None:
        if self.license and not re.fullmatch(r"[a-z0-9.+-]+", self.license):
            raise ValueError(
                f"license={self.license}: wanted the Hub's name of it, as apache-2.0, mit, cc-by-4.0 or other "
                "(https://huggingface.co/docs/hub/repositories-licenses)"
            )
        if self.push_to_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub):
            raise ValueError(f"push_to_hub={self.push_to_hub}: wanted USER/NAME or ORGANISATION/NAME")
        if self.private and not self.push_to_hub:
            raise ValueError("private=true says nothing without push_to_hub=USER/NAME")


@options
class InspectConfig:
    """Show what is in shards, or how far a run has come."""

    path: str
    """Shards, one data set, or a run folder; `jemb inspect DIR` is short for `jemb inspect path=DIR`."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Samples to show from each data set."""
    tokenizer: str | None = None
    """Also show lengths in tokens: of this model's tokenizer (a run, a model folder or a Hugging Face name)."""
    verify: bool = False
    """Read everything and compare checksums with the manifest."""
    index: bool = False
    """Build index and manifest for a folder of tars made by others (`jemb inspect --index path=DIR`). Each sample must
    be one `KEY.json` member; `jemb prepare` reads the rest."""


@options
class NewConfig:
    """Start a project of your own: a folder with example data, settings and the commands to run."""

    path: str
    """Folder to make; must not exist or be empty. `jemb new DIR` is short for `jemb new path=DIR`."""


@options
class DemoConfig:
    """The whole journey on the docstrings of the installed Python packages: prepare, train, evaluate, export."""

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
