"""Options of `jemb evaluate`, `export`, `inspect` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from jemb.config.types import STRICT, Positive, Seed, Strings


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a model on local files."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

    run: str
    """Run folder of `jemb train`."""
    output: str
    """Folder to write; must not exist or be empty."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what is in shards or in a run."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

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
