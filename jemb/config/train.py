"""Options of `jemb train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from jemb.config.types import STRICT, Positive, PositiveReal, Seed


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder to train. Choose a set of values by name (`model=tiny`, `model=t5_small`, …) or a path."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

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
